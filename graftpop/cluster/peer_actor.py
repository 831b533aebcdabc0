"""A Ray actor: one process with one or more peers."""

import logging
import sys
import traceback
from collections.abc import Generator, Sequence
from typing import Any

import ray
from ray import cloudpickle

from graftpop.cluster.process_group import ProcessGroup
from graftpop.cluster.resources import ResourceRequest
from graftpop.errors import GraftpopError, PeerError, PeerLost, describe_exception, printable
from graftpop.settings import Settings

__all__ = ["PeerActor", "this_node"]


class PeerActor:
    """A process that runs one or more peers, one after the other; its creator need not import torch."""

    def __init__(
        self, settings: dict[str, Any], peers: Sequence[int], request: ResourceRequest, components: bytes | None
    ) -> None:
        import torch

        from graftpop.cluster.malloc import keep_freed_memory

        keep_freed_memory()
        logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(message)s")  # the process's log in the dashboard
        logging.getLogger("graftpop").setLevel(logging.INFO)
        self._name = f"{settings['name']}/peer-{'-'.join(map(str, peers))}"
        self._device = "cuda" if request.gpus_per_peer else "cpu"
        self._num_cores = max(1, int(len(peers) * request.cpus_per_peer))
        torch.set_num_threads(self._num_cores)
        self._components = components
        self._failure: PeerError | None = None
        self._process_group = ProcessGroup(peers[0])
        self._peers: dict[int, Any] = {}
        self.assign(settings, peers)

    def assign(self, settings: dict[str, Any], peers: Sequence[int]) -> None:
        """Create peers of a new population, in place of the old ones."""
        from graftpop.peer.peer import Peer

        self._peers.clear()  # free their memory first
        self._process_group.leave()
        population = Settings.model_validate(settings)
        names = ", ".join(map(str, peers))
        self._failure = None
        try:
            components = None if self._components is None else cloudpickle.loads(self._components)
            for peer in peers:
                self._peers[peer] = Peer(
                    population, peer, self._device, num_workers=self._num_cores - 1, components=components
                )
        except GraftpopError as error:
            self._failure = PeerError(f"peer {names}: {error}")
        except Exception as error:  # of user code; raised here, it would be retried until the replacement timeout
            self._failure = PeerError(
                f"peer {names}: its process cannot build network, images or optimizer: {describe_exception(error)}; "
                f"put the modules and files that they need on every node"
            )

    def __repr__(self) -> str:
        """Return the actor's name for logs and the dashboard; its tasks are named after the trial."""
        return self._name

    def call(self, peer: int, method: str, *arguments: Any) -> Any:
        """Run a method of a peer; Ray has replaced references among the arguments by their values.

        Raises:
            PeerError: the method would fail again, because a peer is a function of its seed.
            PeerLost: the method may succeed when it is repeated.
        """
        if self._failure is not None:
            raise self._failure
        try:
            result = getattr(self._peers[peer], method)(*arguments)
            return self._process_group.run(result) if isinstance(result, Generator) else result
        except PeerError:
            raise
        except GraftpopError as error:
            raise PeerError(f"peer {peer}: {error}") from None
        except Exception as error:  # of user code or torch
            # into Ray's log; a text that is not UTF-8 would crash Ray's worker, so the error is not chained either
            print(printable(traceback.format_exc()), file=sys.stderr)
            kind = PeerLost if _may_pass(error) else PeerError
            raise kind(f"peer {peer}: failed in '{method}': {describe_exception(error)}") from None

    def make(self, peer: int, method: str, *arguments: Any) -> tuple[str, Any]:
        """Run a method of a peer; return this node's ID and the result as two objects, so the result can stay here."""
        return this_node(), self.call(peer, method, *arguments)

    def dismiss(self, peer: int) -> None:
        """Remove a peer."""
        del self._peers[peer]

    def open_process_group(self, rank: int, world_size: int, timeout_s: float) -> tuple[str, int]:
        """Open the peers' process group; return its address and port."""
        return self._process_group.open(rank, world_size, timeout_s)

    def join_process_group(self, address: tuple[str, int], rank: int, world_size: int, timeout_s: float) -> None:
        """Join the process group that another peer opened."""
        self._process_group.join(address, rank, world_size, timeout_s)


def _may_pass(error: Exception) -> bool:
    """Return whether an exception depends on more than a peer's seed: memory, devices, files, or reader processes."""
    import torch

    kinds = (OSError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError)
    text = str(error)
    return isinstance(error, kinds) or text.startswith("DataLoader ") or "DefaultCPUAllocator" in text


def this_node() -> str:
    """Return the ID of this process's node."""
    return str(ray.get_runtime_context().get_node_id())
