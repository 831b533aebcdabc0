"""Peers as Ray actors, one process each, in the placement group of their trial.

What one peer hands to another (a snapshot, class probabilities) stays in the object store of the node where it was
made; the population only holds references, and Ray moves the bytes from node to node.
"""

import re
import time
from collections.abc import Generator, Iterator
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from graftpop.cluster.meeting import MeetingBroken, MeetingPlace
from graftpop.cluster.resources import Demand
from graftpop.errors import PeerError
from graftpop.population import Calls
from graftpop.settings import Settings

__all__ = ["RayGroup"]


class PeerActor:
    """One `Peer` in a process of its own. The process that creates it need not import torch."""

    def __init__(self, settings: dict[str, Any], index: int, demand: Demand, title: str) -> None:
        import torch

        from graftpop.peer import Peer

        self._title = title
        num_cores = max(1, int(demand.cpus_per_peer))
        torch.set_num_threads(num_cores)
        device = "cuda" if demand.gpus_per_peer else "cpu"
        self._place = MeetingPlace(index, demand.num_peers)
        self._peer = Peer(Settings.model_validate(settings), index, device, num_workers=num_cores - 1)

    def __repr__(self) -> str:
        """Name the actor for logs and the dashboard."""
        return self._title

    def call(self, method: str, *arguments: Any) -> Any:
        """Run a method of the peer; references among the arguments have become what they refer to."""
        result = getattr(self._peer, method)(*arguments)
        return self._place.hold(result) if isinstance(result, Generator) else result

    def open_meetings(self, limit_s: float) -> tuple[str, int]:
        """Open the place where the peers meet; return its address and port."""
        return self._place.open(limit_s)

    def come_to_meetings(self, address: tuple[str, int], limit_s: float) -> None:
        """Come to the place that another peer has opened."""
        self._place.come(address, limit_s)


class RayGroup:
    """The peers of one trial; see `graftpop.population.Group`.

    Args:
        settings: the population's.
        demand: what each peer reserves.
        placement_group: the trial's; bundle i is peer i's.
        title: what the peers' names begin with (`study/trial`).
    """

    def __init__(self, settings: Settings, demand: Demand, placement_group: PlacementGroup, title: str) -> None:
        # neither restarts nor retries: a peer that starts again would be another one, without its weights
        remote_peer: Any = ray.remote(max_restarts=0, max_task_retries=0)(PeerActor)
        plain = settings.model_dump()
        self._actors = [
            remote_peer.options(
                num_cpus=demand.cpus_per_peer,
                num_gpus=demand.gpus_per_peer,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=placement_group, placement_group_bundle_index=peer),
            ).remote(plain, peer, demand, f"{title}/peer-{peer}")
            for peer in range(demand.num_peers)
        ]
        if settings.mutual is not None and settings.mutual.exchange == "logits":
            # the calls of an actor run in their order: who is asked to train has come to the meetings before
            limit_s = settings.population.round_limit_s
            address = self._actors[0].open_meetings.remote(limit_s)
            for actor in self._actors[1:]:
                actor.come_to_meetings.remote(address, limit_s)
        self._peer_of_actor = {actor._actor_id.hex(): peer for peer, actor in enumerate(self._actors)}

    def run(self, method: str, calls: Calls, limit_s: float, *, hold: bool = False) -> Iterator[tuple[int, Any]]:
        """See `Group.run`. A handle is an object reference; what it refers to is not fetched here."""
        deadline = time.monotonic() + limit_s
        peer_of = {
            self._actors[peer].call.options(name=f"peer-{peer}.{method}").remote(method, *arguments): peer
            for peer, arguments in calls.items()
        }
        pending = list(peer_of)
        broken = []  # those that could not meet with another come after that other, the cause
        while pending:
            done, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()), fetch_local=not hold)
            for reference in done:
                peer = peer_of[reference]
                result = reference if hold else self._result(reference, peer, method)
                if isinstance(result, MeetingBroken):
                    broken.append((peer, result))
                else:
                    yield peer, result
            if not done:
                for reference in pending:
                    peer = peer_of[reference]
                    yield peer, PeerError(f"peer {peer}: did not finish '{method}' within {limit_s:g} s; see "
                                          f"population.round_limit_s")
                break
        yield from broken

    def _result(self, reference: ray.ObjectRef[Any], peer: int, method: str) -> Any:
        try:
            return ray.get(reference, timeout=60)
        except RayTaskError as error:
            # a lost donor shows at its receiver, as the cause of the receiver's failure
            if isinstance(error.cause, RayActorError):
                return self._lost(error.cause, peer, method)
            if isinstance(error.cause, PeerError):
                return error.cause
            raise
        except RayActorError as error:
            return self._lost(error, peer, method)
        except GetTimeoutError:
            return PeerError(f"peer {peer}: its result of '{method}' did not arrive within 60 s")

    def _lost(self, error: RayActorError, peer: int, method: str) -> PeerError:
        peer = self._peer_of_actor.get(error.actor_id or "", peer)
        return PeerError(f"peer {peer}: lost in '{method}': {_why(str(error))}")

    def close(self) -> None:
        """End the peers' processes."""
        for actor in self._actors:
            ray.kill(actor)


def _why(text: str) -> str:
    """Return in one line why an actor was lost, from the page that Ray has to say about it."""
    if ours := re.findall(r"graftpop\.errors\.\w+: (.+)", text):
        return str(ours[-1])
    where = [match[0] for key in ("ip", "pid") if (match := re.search(rf"{key}: \S+", text))]
    detail = re.search(r"Worker exit detail: ([^.]+)", text)
    said = detail[1] if detail else text.strip().splitlines()[0]
    return f"{said} ({', '.join(where)})"
