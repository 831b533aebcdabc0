"""The process group of a population's peers, for arrays exchanged at every batch.

It uses torch's gloo backend on every device: a batch's logits are a few kilobytes.
"""

import datetime
import os
import socket
from collections.abc import Generator
from typing import Any

import numpy as np
import psutil
import ray
from numpy.typing import NDArray

from graftpop.errors import CollectiveError

__all__ = ["ProcessGroup"]


class ProcessGroup:
    """One peer's membership in the process group.

    Args:
        peer: index of the peer, for messages.
    """

    def __init__(self, peer: int) -> None:
        self._peer = peer
        self._rank = self._world_size = 0
        self._address: tuple[str, int] | None = None
        self._store: Any = None
        self._timeout = datetime.timedelta(0)

    def open(self, rank: int, world_size: int, timeout_s: float) -> tuple[str, int]:
        """Open a new process group and return its address and port.

        Args:
            rank: rank of this peer, from 0.
            world_size: number of peers in the group.
            timeout_s: seconds that each collective waits for the other peers.
        """
        host = ray.util.get_node_ip_address()
        self._reset(rank, world_size, timeout_s)
        # torch's own listener would be open on every interface
        with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            port = listener.getsockname()[1]
            self._store = self._store_at(host, port, is_master=True, master_listen_fd=listener.detach())
        return host, port

    def join(self, address: tuple[str, int], rank: int, world_size: int, timeout_s: float) -> None:
        """Join another peer's process group at the first collective; see `open`."""
        self._reset(rank, world_size, timeout_s)
        self._address = address

    def _reset(self, rank: int, world_size: int, timeout_s: float) -> None:
        self.leave()
        self._store, self._address = None, None
        self._rank, self._world_size = rank, world_size
        self._timeout = datetime.timedelta(seconds=timeout_s)

    def _store_at(self, host: str, port: int, **options: Any) -> Any:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # documented, and not in its __all__

        return TCPStore(host, port, wait_for_workers=False, timeout=self._timeout, **options)

    def run(self, collective: Generator[NDArray[Any], NDArray[Any], Any]) -> Any:
        """Run a collective to its end and return its result; each array that it yields is exchanged with all peers.

        Raises:
            CollectiveError: another peer timed out or left.
        """
        stacked = None
        try:
            while True:
                try:
                    own = collective.send(stacked)  # type: ignore[arg-type]  # None starts a generator
                except StopIteration as done:
                    return done.value
                stacked = self._exchange(own)
        except BaseException:  # interrupts too: the others must not wait for a failed peer
            self.leave()
            raise

    def _exchange(self, own: NDArray[Any]) -> NDArray[Any]:
        """Return the arrays of all peers, stacked in rank order."""
        import torch.distributed

        stacked = np.empty((self._world_size, *own.shape), own.dtype)
        try:
            if not torch.distributed.is_initialized():
                self._join()
            gathered = torch.from_numpy(stacked).flatten(0, 1)
            torch.distributed.all_gather_into_tensor(gathered, torch.from_numpy(own))
        except RuntimeError as error:  # gloo raises nothing else
            raise CollectiveError(
                f"peer {self._peer}: its collective with the other peers failed: {str(error).splitlines()[0]}"
            ) from error
        return stacked

    def _join(self) -> None:
        """Join the process group and wait until all peers have joined.

        Raises:
            RuntimeError: the group is not open, cannot be reached, or is incomplete after the timeout.
        """
        import torch.distributed

        if self._store is None:
            if self._address is None:
                raise RuntimeError("the first peer could not open the process group")
            self._store = self._store_at(*self._address)
        # by default gloo binds the host name's address, on many machines the loopback (Debian maps it to 127.0.1.1);
        # peers on other nodes would then time out
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface_of(ray.util.get_node_ip_address()))
        torch.distributed.init_process_group(
            "gloo", store=self._store, rank=self._rank, world_size=self._world_size, timeout=self._timeout
        )

    def leave(self) -> None:
        """Leave the process group."""
        import torch.distributed

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _interface_of(address: str) -> str:
    """Return the name of this machine's network interface with an address.

    Raises:
        RuntimeError: no interface has it.
    """
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in entries):
            return str(name)
    raise RuntimeError(f"no network interface of this machine has its node's address, {address}")
