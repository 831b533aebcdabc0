"""The peers of a trial as a group of Ray actors in the trial's placement group, one or more peers per process.

Data that peers pass to each other (snapshots, class probabilities) stays in the object store of its node. The
population holds references, and Ray moves the bytes from node to node.
"""

import time
from collections import deque
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import ray
from ray import cloudpickle
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from graftpop.cluster.loss_reason import loss_reason
from graftpop.cluster.peer_actor import PeerActor, this_node
from graftpop.cluster.resources import ResourceRequest
from graftpop.errors import CollectiveError, PeerError, PeerLost, PopulationLost, ResultLost
from graftpop.population import Calls
from graftpop.population.group import ResultMode
from graftpop.settings import Settings

__all__ = ["RayGroup"]

GET_TIMEOUT_S = 300.0
REASSIGN_TIMEOUT_S = 60.0
"""A process that takes longer to get another trial's peers is restarted."""


class PendingCall(NamedTuple):
    """A call of a peer's method that has not ended."""

    peer: int
    method: str
    result_mode: ResultMode
    result_ref: "ray.ObjectRef[Any]"
    timeout_s: float
    deadline: float


class RayGroup:
    """The peers of one trial; see `graftpop.population.Group`.

    Args:
        settings: the population's settings.
        request: resources of the peers, and which of them share a process.
        placement_group: the trial's placement group; its last bundles belong to the actors.
        trial: trial ID, the prefix of the peers' task names.
        components: a `graftpop.peer.components.Components`, which is pickled; None for those that the settings name.
    """

    def __init__(
        self,
        settings: Settings,
        request: ResourceRequest,
        placement_group: PlacementGroup,
        trial: str,
        components: Any = None,
    ) -> None:
        # Ray neither restarts nor retries, because a restarted peer first needs its state
        self._remote_peer: Any = ray.remote(max_restarts=0, max_task_retries=0)(PeerActor)
        self._settings, self._request, self._placement_group, self._trial = settings, request, placement_group, trial
        # put once for all processes, in this process's object store
        self._components = None if components is None else ray.put(cloudpickle.dumps(components))
        self._actors: dict[int, Any] = {}  # by index of actor
        self._actor_of_peer: dict[int, int] = {}  # index of actor by peer
        self._started: dict[ray.ObjectRef[Any], PendingCall] = {}
        self._ended: deque[ray.ObjectRef[Any]] = deque()  # the started calls that are known to have ended
        self._assign_peers()
        for index in range(len(request.actors)):
            self._start_process(index)
        self._connect_process_group()

    def _assign_peers(self) -> None:
        self._actor_of_peer = {peer: index for index, peers in enumerate(self._request.actors) for peer in peers}

    def reassign(self, settings: Settings, request: ResourceRequest, trial: str) -> None:
        """Become the peers of another trial with the same bundles; idle processes are reused.

        Args:
            settings: settings of the new population.
            request: resources of the new peers, with the same bundles; the peers in each bundle may differ.
            trial: ID of the new trial.
        """
        busy = {self._actor_of_peer[call.peer] for call in self._started.values()}
        self._settings, self._request, self._trial = settings, request, trial
        self._started.clear()
        self._ended.clear()
        self._assign_peers()
        assigned = {
            index: actor.assign.remote(settings.model_dump(), self._peers_of(index))
            for index, actor in self._actors.items()
            if index not in busy
        }
        if assigned:
            ray.wait(list(assigned.values()), num_returns=len(assigned), timeout=REASSIGN_TIMEOUT_S)
        for index in range(len(self._request.actors)):
            if index not in assigned or not _is_done(assigned[index]):
                self._start_process(index)
        self._connect_process_group()

    def _peers_of(self, index: int) -> list[int]:
        return [peer for peer, other in self._actor_of_peer.items() if other == index]

    def _start_process(self, index: int) -> None:
        """Start the process of an actor, in place of an old one."""
        if index in self._actors:
            ray.kill(self._actors[index])
        bundles = self._request.bundles
        self._actors[index] = self._remote_peer.options(
            num_cpus=bundles[index]["CPU"],
            num_gpus=bundles[index].get("GPU", 0.0),
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=self._placement_group,
                placement_group_bundle_index=self._placement_group.bundle_count - len(bundles) + index,
            ),
        ).remote(self._settings.model_dump(), self._peers_of(index), self._request, self._components)

    def _connect_process_group(self) -> None:
        """Connect all actors in one process group if the settings need it; ranks follow the peers' order.

        Actors run calls in order, so later calls find the group.
        """
        if not self._settings.runs_in_lockstep:
            return
        timeout_s = self._settings.population.round_timeout_s
        opener, *others = (self._actors[index] for index in sorted(self._actors))
        address = opener.open_process_group.remote(0, len(self._actors), timeout_s)
        for rank, actor in enumerate(others, start=1):
            actor.join_process_group.remote(address, rank, len(self._actors), timeout_s)

    def run(
        self, method: str, calls: Calls, timeout_s: float, *, result_mode: ResultMode = "value"
    ) -> Iterator[tuple[int, Any]]:
        """See `Group.run`; a handle is an object reference."""
        pending = dict(
            self._submit(peer, method, arguments, timeout_s, result_mode) for peer, arguments in calls.items()
        )
        ended: deque[ray.ObjectRef[Any]] = deque()
        broken = []  # reported after the failure that caused them
        while pending:
            peer, result = self._next_of(pending, ended)
            if isinstance(result, CollectiveError):
                broken.append((peer, result))
            else:
                yield peer, result
        yield from broken

    def start(
        self, peer: int, method: str, arguments: tuple[Any, ...], timeout_s: float, *, result_mode: ResultMode = "value"
    ) -> None:
        """See `Group.start`."""
        reference, call = self._submit(peer, method, arguments, timeout_s, result_mode)
        self._started[reference] = call

    def next_result(self) -> tuple[int, Any]:
        """See `Group.next_result`."""
        return self._next_of(self._started, self._ended)

    def _submit(
        self, peer: int, method: str, arguments: tuple[Any, ...], timeout_s: float, result_mode: ResultMode
    ) -> "tuple[ray.ObjectRef[Any], PendingCall]":
        """Start a method on one peer; return the reference that signals its end, and the call."""
        actor, name = self._actors[self._actor_of_peer[peer]], f"{self._trial}/peer-{peer}.{method}"
        if result_mode == "value":
            reference = result_ref = actor.call.options(name=name).remote(peer, method, *arguments)
        else:
            reference, result_ref = actor.make.options(name=name, num_returns=2).remote(peer, method, *arguments)
        return reference, PendingCall(peer, method, result_mode, result_ref, timeout_s, time.monotonic() + timeout_s)

    def _next_of(
        self, pending: "dict[ray.ObjectRef[Any], PendingCall]", ended: "deque[ray.ObjectRef[Any]]"
    ) -> tuple[int, Any]:
        """Remove the call that ends or times out first; return its peer with the result or the error.

        Args:
            pending: the calls.
            ended: the pending calls that are known to have ended. A wait that finds one collects all of them, because
                the cost of a wait grows with the number of pending calls.
        """
        if not ended:
            deadline = min(call.deadline for call in pending.values())
            first, others = ray.wait(list(pending), timeout=max(0.0, deadline - time.monotonic()))
            if not first:
                late = next(reference for reference, call in pending.items() if call.deadline == deadline)
                call = pending.pop(late)
                return call.peer, PeerLost(
                    f"peer {call.peer}: did not finish '{call.method}' within {call.timeout_s:g} "
                    f"s; it is replaced; raise population.deadline_factor or round_timeout_s if it was only slow"
                )
            ended.extend(first)
            if others:
                ended.extend(ray.wait(others, num_returns=len(others), timeout=0)[0])
        reference = ended.popleft()
        call = pending.pop(reference)
        result = self._result(reference, call.peer, call.method)
        if isinstance(result, PeerError) or call.result_mode == "value":
            return call.peer, result
        # the node's object store keeps a returned object when the process ends, but not when the node is lost
        if call.result_mode == "ref" or result == this_node():
            return call.peer, call.result_ref
        kept = self._result(call.result_ref, call.peer, call.method)
        return call.peer, kept if isinstance(kept, PeerError) else self.put(kept)

    def _result(self, reference: ray.ObjectRef[Any], peer: int, method: str) -> Any:
        try:
            return ray.get(reference, timeout=GET_TIMEOUT_S)
        except RayTaskError as error:
            if isinstance(error.cause, PeerError):
                return error.cause
            if isinstance(error.cause, ObjectLostError | RayActorError):  # an argument was lost
                return _result_lost(error.cause, peer, method)
            raise
        except ObjectLostError as error:
            return _result_lost(error, peer, method)
        except RayError as error:
            actor = self._actors.get(self._actor_of_peer.get(peer, -1))
            return PeerLost(f"peer {peer}: lost in '{method}': {loss_reason(str(error), actor)}")

    def coresident(self, peers: Collection[int]) -> set[int]:
        """See `Group.coresident`."""
        indices = {self._actor_of_peer[peer] for peer in peers}
        return {peer for peer, index in self._actor_of_peer.items() if index in indices}

    def restart(self, peers: Collection[int]) -> None:
        """See `Group.restart`; if a peer's node is gone, Ray places the new process on another node with room."""
        for index in sorted({self._actor_of_peer[peer] for peer in peers}):
            self._start_process(index)
        self._connect_process_group()

    def dismiss(self, peers: Collection[int]) -> None:
        """See `Group.dismiss`."""
        for peer in peers:
            index = self._actor_of_peer.pop(peer)
            if self._peers_of(index):
                self._actors[index].dismiss.remote(peer)
            else:
                ray.kill(self._actors.pop(index))

    def put(self, value: Any) -> Any:
        """See `Group.put`; this process's node keeps the value."""
        return ray.put(value)

    def get(self, handle: Any) -> Any:
        """See `Group.get`."""
        try:
            return ray.get(handle, timeout=GET_TIMEOUT_S)
        except ObjectLostError as error:
            raise PopulationLost(
                f"trial {self._trial}: the states of its peers must stay in the object store, got "
                f"{type(error).__name__}; the trial resumes from its last checkpoint"
            ) from error

    def close(self) -> None:
        """End the peers' processes."""
        for actor in self._actors.values():
            ray.kill(actor)


def _is_done(reference: ray.ObjectRef[Any]) -> bool:
    """Return whether a call has ended without an error."""
    try:
        ray.get(reference, timeout=0)
    except RayError:
        return False
    return True


def _result_lost(error: Exception, peer: int, method: str) -> ResultLost:
    return ResultLost(f"peer {peer}: an argument of its '{method}' is gone: {loss_reason(str(error))}")
