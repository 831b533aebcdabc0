"""Where the peers of a population meet: a collective of their processes, for what is exchanged at every batch.

Through torch's own gloo backend, whatever the device: what is exchanged are a batch's logits, some kilobytes.
"""

import datetime
import os
from collections.abc import Generator
from typing import Any

import numpy as np
import psutil
import ray
from numpy.typing import NDArray

from graftpop.errors import CollectiveError

__all__ = ["ProcessGroup"]


class ProcessGroup:
    """One peer's side of the meetings.

    Args:
        peer: whose side it is.
    """

    def __init__(self, peer: int) -> None:
        self._peer = peer
        self._place = self._num_places = 0
        self._address: tuple[str, int] | None = None
        self._store: Any = None
        self._limit = datetime.timedelta(0)

    def open(self, place: int, num_places: int, timeout_s: float) -> tuple[str, int]:
        """Open the place, in place of any before; return its address and port.

        Args:
            place: which of those that meet this is, from 0.
            num_places: how many meet.
            timeout_s: how long anyone waits for the others.
        """
        host = ray.util.get_node_ip_address()
        self._expect(place, num_places, timeout_s)
        self._store = self._store_at(host, 0, is_master=True)
        return host, self._store.port

    def join(self, address: tuple[str, int], place: int, num_places: int, timeout_s: float) -> None:
        """Come to a place that another peer has opened, at the first meeting; see `open`."""
        self._expect(place, num_places, timeout_s)
        self._address = address

    def _expect(self, place: int, num_places: int, timeout_s: float) -> None:
        self.leave()
        self._store, self._address = None, None
        self._place, self._num_places = place, num_places
        self._limit = datetime.timedelta(seconds=timeout_s)

    def _store_at(self, host: str, port: int, *, is_master: bool) -> Any:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented, and not in its __all__

        return TCPStore(host, port, is_master=is_master, wait_for_workers=False, timeout=self._limit)

    def run(self, collective: Generator[NDArray[Any], NDArray[Any], Any]) -> Any:
        """Run a method that meets to its end, exchanging what it says with all peers; return its result.

        Raises:
            CollectiveError: another peer did not come in time, or left.
        """
        everyone = None
        try:
            while True:
                try:
                    own = collective.send(everyone)  # type: ignore[arg-type]  # None starts a generator
                except StopIteration as done:
                    return done.value
                everyone = self._exchange(own)
        except BaseException:  # an interrupt too: the others shall not wait for who has failed
            self.leave()
            raise

    def _exchange(self, own: NDArray[Any]) -> NDArray[Any]:
        """Return what all peers say, stacked in their order."""
        import torch.distributed

        everyone = np.empty((self._num_places, *own.shape), own.dtype)
        try:
            if not torch.distributed.is_initialized():
                self._join()
            gathered = torch.from_numpy(everyone).flatten(0, 1)
            torch.distributed.all_gather_into_tensor(gathered, torch.from_numpy(own))
        except RuntimeError as error:  # gloo has no other kind
            raise CollectiveError(
                f"peer {self._peer}: its meeting with the other peers broke off: {str(error).splitlines()[0]}"
            ) from error
        return everyone

    def _join(self) -> None:
        """Come to the place and wait until all peers have.

        Raises:
            RuntimeError: nobody has opened it, it cannot be reached, or not all came in time.
        """
        import torch.distributed

        if self._store is None:
            if self._address is None:
                raise RuntimeError("the peer that opens the place of the meetings could not")
            self._store = self._store_at(*self._address, is_master=False)
        # left to itself gloo binds what the host name stands for, which on many machines is the loopback: Debian writes
        # 127.0.1.1 beside it. Peers on other nodes then wait in vain.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface_of(ray.util.get_node_ip_address()))
        torch.distributed.init_process_group(
            "gloo", store=self._store, rank=self._place, world_size=self._num_places, timeout=self._limit
        )

    def leave(self) -> None:
        """Meet no more with those that one has met with."""
        import torch.distributed

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _interface_of(address: str) -> str:
    """Return the name of this machine's network interface that has an address.

    Raises:
        RuntimeError: none has.
    """
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in entries):
            return str(name)
    raise RuntimeError(f"no network interface of this machine has its node's address, {address}")
