"""A process of peers, as a Ray actor."""

from collections.abc import Generator, Sequence
from typing import Any

import ray
from ray import cloudpickle

from graftpop.cluster.process_group import ProcessGroup
from graftpop.cluster.resources import ResourceRequest
from graftpop.errors import PeerError
from graftpop.settings import Settings

__all__ = ["PeerActor", "this_node"]


class PeerActor:
    """A process that has some peers and runs them one after the other. Who creates it need not import torch."""

    def __init__(
        self, settings: dict[str, Any], peers: Sequence[int], demand: ResourceRequest, parts: bytes | None
    ) -> None:
        import torch

        from graftpop.cluster.malloc import keep_freed_memory

        keep_freed_memory()
        self._name = f"{settings['name']}/peer-{'-'.join(map(str, peers))}"
        self._device = "cuda" if demand.gpus_per_peer else "cpu"
        self._num_cores = max(1, int(len(peers) * demand.cpus_per_peer))
        torch.set_num_threads(self._num_cores)
        self._parts = parts
        self._failure: PeerError | None = None
        self._process_group = ProcessGroup(peers[0])
        self._peers: dict[int, Any] = {}
        self.assign(settings, peers)

    def assign(self, settings: dict[str, Any], peers: Sequence[int]) -> None:
        """Have peers of a population that begins, in place of those of another."""
        from graftpop.peer.peer import Peer

        self._peers.clear()  # their memory is free before that of the next is taken
        self._process_group.leave()
        population = Settings.model_validate(settings)
        try:
            parts = None if self._parts is None else cloudpickle.loads(self._parts)
        except (ImportError, AttributeError) as error:  # a constructor that fails would be tried again and again
            self._failure = PeerError(
                f"peer {', '.join(map(str, peers))}: its process cannot have the network, images "
                f"or optimizer: {error}; put their modules where every node can import them"
            )
            return
        for peer in peers:
            self._peers[peer] = Peer(population, peer, self._device, num_workers=self._num_cores - 1, parts=parts)

    def __repr__(self) -> str:
        """Name the actor for logs and the dashboard; its tasks have the name of the trial."""
        return self._name

    def call(self, peer: int, method: str, *arguments: Any) -> Any:
        """Run a method of a peer; references among the arguments have become what they refer to."""
        if self._failure is not None:
            raise self._failure
        result = getattr(self._peers[peer], method)(*arguments)
        return self._process_group.run(result) if isinstance(result, Generator) else result

    def make(self, peer: int, method: str, *arguments: Any) -> tuple[str, Any]:
        """Run a method of a peer whose result stays here; return apart from it on which node that is."""
        return this_node(), self.call(peer, method, *arguments)

    def dismiss(self, peer: int) -> None:
        """Have a peer no more."""
        del self._peers[peer]

    def open_process_group(self, place: int, num_places: int, timeout_s: float) -> tuple[str, int]:
        """Open the place where the peers meet; return its address and port."""
        return self._process_group.open(place, num_places, timeout_s)

    def join_process_group(self, address: tuple[str, int], place: int, num_places: int, timeout_s: float) -> None:
        """Come to the place that another peer has opened."""
        self._process_group.join(address, place, num_places, timeout_s)


def this_node() -> str:
    """Return the id of the node that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())
