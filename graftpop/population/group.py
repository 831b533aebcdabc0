"""Groups of peers: in this process (`LocalGroup`) or as Ray actors (`graftpop.cluster.actors`).

A group runs a method on some peers and yields their results as they complete. Data that peers pass to each other
(snapshots, class probabilities) travels as opaque handles.
"""

import copy
import math
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from graftpop.errors import CollectiveError, PeerError

__all__ = ["Calls", "Group", "LocalGroup", "ResultMode"]

Calls = Mapping[int, tuple[Any, ...]]
"""Arguments by peer; a handle among them is replaced by its value."""

ResultMode = Literal["value", "ref", "durable"]
"""`value`: the result itself. `ref`: a handle, lost with the peer. `durable`: a handle that outlives the peer."""


class Group(Protocol):
    """Peers that run methods and can be restarted."""

    def run(
        self, method: str, calls: Calls, timeout_s: float, *, result_mode: ResultMode = "value"
    ) -> Iterator[tuple[int, Any]]:
        """Run a method on some peers and yield each peer with its result as they complete.

        Args:
            method: name of a method of `graftpop.peer.peer.Peer`.
            calls: arguments by peer.
            timeout_s: seconds to wait for all of them.
            result_mode: kind of result. A handle can be an argument of later calls; a `ref` keeps the current value.

        Yields:
            The peer, and its result, its handle, or the `PeerError` that replaced it.
        """
        ...

    def start(
        self, peer: int, method: str, arguments: tuple[Any, ...], timeout_s: float, *, result_mode: ResultMode = "value"
    ) -> None:
        """Start a method on one peer and return at once; see `run` and `next_result`. One call per peer at a time."""
        ...

    def next_result(self) -> tuple[int, Any]:
        """Return the peer and result of the started call that ends or times out first, as `run` yields them.

        At least one call must be running.
        """
        ...

    def coresident(self, peers: Collection[int]) -> set[int]:
        """Return the peers that are lost together with some peers: these and all peers in their processes."""
        ...

    def restart(self, peers: Collection[int]) -> None:
        """Restart some peers in their initial state; later calls wait until they are up.

        All peers of a process must be among them.
        """
        ...

    def dismiss(self, peers: Collection[int]) -> None:
        """End some peers for good; later collectives exclude them."""
        ...

    def put(self, value: Any) -> Any:
        """Return a handle of a value that outlives every peer."""
        ...

    def get(self, handle: Any) -> Any:
        """Return the value of a durable handle.

        Raises:
            PopulationLost: it is gone all the same.
        """
        ...


class LocalGroup:
    """Peers in this process. They run one after the other, and collectives run in lockstep.

    Args:
        make_peer: function from an index to a new peer.
        num_peers: number of peers, 1 or more.
    """

    def __init__(self, make_peer: Callable[[int], object], num_peers: int) -> None:
        self._make_peer = make_peer
        self._peers = {peer: make_peer(peer) for peer in range(num_peers)}
        self._started: deque[tuple[int, str, tuple[Any, ...], ResultMode]] = deque()

    def run(
        self, method: str, calls: Calls, timeout_s: float, *, result_mode: ResultMode = "value"
    ) -> Iterator[tuple[int, Any]]:
        """See `Group.run`; there is nothing to wait for, and a `ref` is a copy of the result."""
        del timeout_s
        collectives = {}
        for peer, arguments in calls.items():
            try:
                result = getattr(self._peers[peer], method)(*arguments)
            except PeerError as error:
                result = error
            if isinstance(result, Generator):
                collectives[peer] = result
            else:
                yield peer, copy.deepcopy(result) if result_mode == "ref" else result
        yield from run_lockstep(collectives)

    def start(
        self, peer: int, method: str, arguments: tuple[Any, ...], timeout_s: float, *, result_mode: ResultMode = "value"
    ) -> None:
        """See `Group.start`."""
        del timeout_s
        self._started.append((peer, method, arguments, result_mode))

    def next_result(self) -> tuple[int, Any]:
        """See `Group.next_result`; calls end in the order in which they started."""
        peer, method, arguments, result_mode = self._started.popleft()
        return next(iter(self.run(method, {peer: arguments}, math.inf, result_mode=result_mode)))

    def coresident(self, peers: Collection[int]) -> set[int]:
        """See `Group.coresident`; each peer can be restarted alone."""
        return set(peers)

    def restart(self, peers: Collection[int]) -> None:
        """See `Group.restart`."""
        for peer in peers:
            self._peers[peer] = self._make_peer(peer)

    def dismiss(self, peers: Collection[int]) -> None:
        """See `Group.dismiss`."""
        for peer in peers:
            del self._peers[peer]

    def put(self, value: Any) -> Any:
        """See `Group.put`."""
        return value

    def get(self, handle: Any) -> Any:
        """See `Group.get`."""
        return handle


def run_lockstep(collectives: Mapping[int, Generator[NDArray[Any], NDArray[Any], Any]]) -> Iterator[tuple[int, Any]]:
    """Run collectives in lockstep and yield each peer with its result.

    Each runs until it yields an array. Then all receive the arrays of all peers, stacked in peer order. If one fails,
    the others end with `CollectiveError`.
    """
    arrays: dict[int, Any] = dict.fromkeys(sorted(collectives))
    stacked = None
    while arrays:
        for peer in list(arrays):
            try:
                arrays[peer] = collectives[peer].send(stacked)  # type: ignore[arg-type]  # None starts a generator
            except StopIteration as done:
                del arrays[peer]
                yield peer, done.value
            except PeerError as error:
                del arrays[peer]
                yield peer, error
                for other in arrays:
                    collectives[other].close()
                    yield other, CollectiveError(f"peer {other}: its collective ended because peer {peer} failed")
                return
        stacked = np.stack(list(arrays.values())) if arrays else None
