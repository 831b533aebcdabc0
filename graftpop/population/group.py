"""Peers somewhere: in this process (`LocalGroup`) or as Ray actors (`graftpop.cluster.actors`).

A group is told which peers shall run which method and gives the results back as they complete. What peers hand to each
other (snapshots, class probabilities) is passed on as handles.
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
"""Peers and the arguments that each is called with; handles among them stand for what they hold."""

ResultMode = Literal["value", "ref", "durable"]
"""What a call shall give: its result, a handle of it that is lost with the peer, or one that is not."""


class Group(Protocol):
    """Peers that can be asked to run a method, and started anew."""

    def run(
        self, method: str, calls: Calls, timeout_s: float, *, wanted: ResultMode = "value"
    ) -> Iterator[tuple[int, Any]]:
        """Start a method on some peers and yield each peer with its result as they complete.

        Args:
            method: name of a method of `graftpop.peer.peer.Peer`.
            calls: who, with which arguments.
            timeout_s: how long to wait for all of them.
            wanted: a handle can be an argument of later calls; what is `held` stays where it was made, as it was then.

        Yields:
            The peer, and its result, its handle, or the `PeerError` that came instead.
        """
        ...

    def start(
        self, peer: int, method: str, arguments: tuple[Any, ...], timeout_s: float, *, wanted: ResultMode = "value"
    ) -> None:
        """Start a method on one peer and return at once; see `run` and `next_result`. One call per peer at a time."""
        ...

    def next_result(self) -> tuple[int, Any]:
        """Wait for whatever was started and is done, or late, first; return what `run` would yield of it.

        Something has to have been started.
        """
        ...

    def coresident(self, peers: Collection[int]) -> set[int]:
        """Return who is lost where some peers are: these, and whoever shares a process with one of them."""
        ...

    def restart(self, peers: Collection[int]) -> None:
        """Start some peers anew, as they were before they trained at all; what they are asked for waits for them.

        All who share a process have to be among them.
        """
        ...

    def dismiss(self, peers: Collection[int]) -> None:
        """End some peers for good; the others meet without them."""
        ...

    def put(self, value: Any) -> Any:
        """Return a handle of a value, which is not lost with any peer."""
        ...

    def get(self, handle: Any) -> Any:
        """Return what a handle that is not lost with a peer stands for."""
        ...


class LocalGroup:
    """Peers in this process, one after the other; where they meet, in step.

    Args:
        make_peer: makes a peer of its index.
        num_peers: how many to make.
    """

    def __init__(self, make_peer: Callable[[int], object], num_peers: int) -> None:
        self._make_peer = make_peer
        self._peers = {peer: make_peer(peer) for peer in range(num_peers)}
        self._started: deque[tuple[int, str, tuple[Any, ...], ResultMode]] = deque()

    def run(
        self, method: str, calls: Calls, timeout_s: float, *, wanted: ResultMode = "value"
    ) -> Iterator[tuple[int, Any]]:
        """See `Group.run`; there is nothing to wait for here, and a handle is a copy of the result."""
        del timeout_s
        meetings = {}
        for peer, arguments in calls.items():
            try:
                result = getattr(self._peers[peer], method)(*arguments)
            except PeerError as error:
                result = error
            if isinstance(result, Generator):
                meetings[peer] = result
            else:
                yield peer, copy.deepcopy(result) if wanted == "ref" else result
        yield from run_lockstep(meetings)

    def start(
        self, peer: int, method: str, arguments: tuple[Any, ...], timeout_s: float, *, wanted: ResultMode = "value"
    ) -> None:
        """See `Group.start`."""
        del timeout_s
        self._started.append((peer, method, arguments, wanted))

    def next_result(self) -> tuple[int, Any]:
        """See `Group.next_result`; here what was started first is done first."""
        peer, method, arguments, wanted = self._started.popleft()
        return next(iter(self.run(method, {peer: arguments}, math.inf, wanted=wanted)))

    def coresident(self, peers: Collection[int]) -> set[int]:
        """See `Group.coresident`; here each can be made anew by itself."""
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


def run_lockstep(meetings: Mapping[int, Generator[NDArray[Any], NDArray[Any], Any]]) -> Iterator[tuple[int, Any]]:
    """Run methods that meet, each up to its next meeting, and send all what all had to say; yield their results.

    Once one has failed the others have nobody to meet, and end with `CollectiveError`.
    """
    said: dict[int, Any] = dict.fromkeys(sorted(meetings))
    everyone = None
    while said:
        for peer in list(said):
            try:
                said[peer] = meetings[peer].send(everyone)  # type: ignore[arg-type]  # None starts a generator
            except StopIteration as done:
                del said[peer]
                yield peer, done.value
            except PeerError as error:
                del said[peer]
                yield peer, error
                for other in said:
                    meetings[other].close()
                    yield other, CollectiveError(f"peer {other}: has nobody to meet, since peer {peer} failed")
                return
        everyone = np.stack(list(said.values())) if said else None
