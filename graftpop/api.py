"""`graftpop.Population`: train a population of a user-defined network on user-defined data, without a study."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.torch import load as tensors_from_bytes
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from graftpop import population
from graftpop.data import Splits, given_classes, given_splits
from graftpop.data.huggingface import has_images, hub_parts
from graftpop.data.torch_dataset import check_augmentation
from graftpop.errors import ModelError, SpaceError
from graftpop.exchange.build import check_user_parts
from graftpop.exchange.rule import ExchangeRule
from graftpop.peer.components import Components
from graftpop.peer.peer import Peer
from graftpop.peer.sites import channel_groups_of, sites_of
from graftpop.population.group import Group, LocalGroup
from graftpop.population.round import Round
from graftpop.run.schemas import schemas
from graftpop.seeds import derive, seeded
from graftpop.settings import Settings
from graftpop.space.population_arguments import data_and_task, named_parts, population_settings, task_section
from graftpop.tasks.check import check_network
from graftpop.tasks.find import make_task
from graftpop.tasks.task import Task
from graftpop.training.named_optimizers import check_user_optimizer, hidden_weights
from graftpop.training.optimizers import MakeOptimizer

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

__all__ = ["Population"]


class Population:
    """A population of a user-defined network; its peers exchange weights if there is a `graft` section.

        population = graftpop.Population(Net, train, test, population={"num_peers": 3},
                                         training={"epochs": 10}, graft={})
        for done in population.run():
            print(done.round, done.score)
        network = population.network()

    Args:
        network: makes a new network from the number of classes; usually the class of the network. It must draw the
            initial weights from torch's global generator. The network returns logits (B, classes), or the outputs that
            a user-defined task expects.
        train: training items (input, target): a tensor such as an image (C, H, W), passed to the network as it is, and
            an integer in [0, classes); a user-defined task may have other targets. A Hugging Face `Dataset` of images
            is decoded and augmented like the images of a space; one with a transform that returns tensors is used as it
            is. A `DatasetDict` provides `train`, `val` and `test` together.
        test: test items, read once, after the last round; required unless `train` is a `DatasetDict`.
        val: items for selection; None: split off from `train`.
        val_fraction: share of `train` to split off, in (0, 1).
        classes: class names by label; None: the attribute `classes` of `train`. A task with `num_outputs` needs none.
        task: a user-defined task, a subclass of `graftpop.Task` or a function that makes one; or the section `task` of
            a space. None: classification.
        exchange: a user-defined exchange rule, a subclass of `graftpop.ExchangeRule`; excludes the section `graft`.
        optimizer: makes a torch optimizer from parameters; None: `training.optimizer`. Its learning rate replaces
            `training.lr` and follows `training.schedule`.
        num_workers: number of processes that read items, per peer.
        on_ray: True: the peers are Ray actors, on the cluster of this process or else on a new one on this machine;
            False: they train one after the other in this process.
        sections: `name`, `seed`, `training`, `augmentation`, `population`, `graft` and the other methods, as in the
            YAML of a space. `graft` may have a function as `alpha` or `criterion`. For a Hugging Face data set of
            images, `data` may have `label`, `image_size`, `max_train_images`, `crop_padding` and `flip`. For other
            data, `augmentation` may not have `policy` and `color_jitter`, which act on pixels.

    Attributes:
        settings: all settings; keys that were not given have their defaults.
        outcome: `best_peer`; the metrics of the output, such as `test_accuracy`, and of the combined predictions of all
            peers, `ensemble_test_accuracy`; the cost of the best network. Empty before the last round.

    Raises:
        GraftpopError: an argument is refused.
    """

    def __init__(  # one keyword per option of the public interface
        self,
        network: Callable[[int], nn.Module],
        train: Dataset[Any] | Mapping[str, Any],
        test: Dataset[Any] | None = None,
        *,
        val: Dataset[Any] | None = None,
        val_fraction: float = 0.1,
        classes: Sequence[str] | None = None,
        task: Callable[[], Task] | Mapping[str, Any] | str | None = None,
        exchange: type[ExchangeRule] | None = None,
        optimizer: MakeOptimizer | None = None,
        num_workers: int = 0,
        on_ray: bool = False,
        **sections: Any,
    ) -> None:
        sections, parts = named_parts(sections, exchange)
        given_task = task if callable(task) else None
        if task is not None:
            sections["task"] = task if given_task is None else task_section(given_task)
        if isinstance(network, nn.Module):
            raise ModelError(
                f"network: must make a new network for each peer, got a {type(network).__name__}; give its class"
            )
        train, val, test = hub_parts(train, val, test)
        if test is None:
            raise SpaceError("test: must be given unless train is a DatasetDict, got none; give test items")
        data, task_settings = data_and_task(sections, has_images(train), val_fraction)
        new_task = partial(make_task, task_settings, given_task)
        outputs = new_task().num_outputs
        names = list(classes if classes is not None else given_classes(train, val, test, data))
        if not names and outputs is None:
            raise SpaceError(
                "classes: must name the classes if train has no attribute `classes`, got none; give classes=[...]"
            )
        self._network, self._num_outputs, self._on_ray = network, outputs or len(names), on_ray
        self.settings = population_settings(network, self._num_outputs, optimizer, sections)
        make_splits = partial(
            given_splits,
            train,
            val,
            test,
            data,
            classes=list(map(str, names)),
            seed=self.settings.seed,
            num_workers=num_workers,
            has_labels=not task_settings.is_user_defined,
        )
        splits, probe = make_splits(augmentation=self.settings.augmentation), self._new_network()
        if optimizer is None and "muon" in self.settings.optimizers:
            hidden_weights(probe)
        for peer in self.settings.of_peers():
            check_augmentation(peer.augmentation, splits.image_shape)
        check_network(self.settings, new_task(), probe, splits)
        if optimizer is not None:
            drops_filters = self.settings.repr is not None or self.settings.pruning is not None
            check_user_optimizer(optimizer, probe, drops_filters=drops_filters)
        channel_groups_of(self.settings, probe, splits.image_shape)
        check_user_parts(self.settings, probe, sites_of(self.settings, probe, splits.image_shape), parts)
        self._components = Components(network, _Splits(make_splits), optimizer, _NewTask(given_task), parts)
        self._read_states: Callable[[], Iterable[tuple[int, bytes]]] = tuple
        self._best_peer = 0
        self._rounds: list[Round] = []
        self.outcome: dict[str, Any] = {}

    def run(self, *, progress: bool = False) -> Iterator[Round]:
        """Train from the first round to the last, and yield each round when it is complete.

        Args:
            progress: show a bar with the score, in a terminal or a notebook.

        Raises:
            PeerError: a peer failed, or was lost more often than allowed.
            PopulationLost: with `on_ray`, lost peers found no room and too few peers remain.
            ResourceError: with `on_ray`, the cluster has no room for the peers.
        """
        with self._group() as group:
            running = population.Population(group, self.settings)
            self._read_states, self._rounds, self.outcome = running.save, [], {}
            bar = tqdm(total=self.settings.num_rounds, unit="round", disable=not progress)
            try:
                while running.round < self.settings.num_rounds:
                    done = running.step()
                    self._best_peer = done.best_peer
                    self._rounds.append(done)
                    bar.set_postfix({done.primary.label: done.primary.text(done.score)}, refresh=False)
                    bar.update()
                    if done.is_last:
                        self.outcome = running.finish(done)
                        self._best_peer = self.outcome["best_peer"]
                    yield done
                    if done.is_last:  # possibly before the planned end
                        break
            finally:  # also if the caller leaves the loop; the networks of the ended peers stay readable
                bar.close()
                states = dict(running.save()) if running.round else {}
                self._read_states = states.items

    def network(self, peer: int | None = None) -> nn.Module:
        """Return a peer's network after the last completed round, in evaluation mode.

        Args:
            peer: index of the peer; None: the best one.

        Raises:
            ModelError: the peer has completed no round.
        """
        peer = self._best_peer if peer is None else peer
        states = dict(self._read_states())
        if peer not in states:
            raise ModelError(
                f"Population.network: peer must be one of {sorted(states)} that completed a round, got {peer}"
            )
        tensors = tensors_from_bytes(states[peer])
        network = self._new_network()
        network.load_state_dict(
            {name.removeprefix("network/"): tensor for name, tensor in tensors.items() if name.startswith("network/")}
        )
        return network.eval()

    @property
    def history(self) -> "pd.DataFrame":
        """The results so far: one row per round and peer, with the columns of `rounds.parquet`."""
        return self._table("rounds").to_pandas()

    def plot(self, what: Literal["score", "alpha", "entropy"] = "score", peer: int = 0) -> "go.Figure":
        """Return a plotly figure of the rounds so far.

        Args:
            what: score: validation score and training loss of every peer by round. alpha, entropy: the share of its own
                weights that a peer kept, and the entropies of its weights and of its donors', by site and round.
            peer: the peer, for alpha and entropy.

        Raises:
            ModelError: no round is complete; or the peer was not grafted, or the figure would show one constant.
        """
        from graftpop.reporting.curves import peers_by_round
        from graftpop.reporting.exchange import alpha_map, entropy_maps

        if not self._rounds:
            raise ModelError("Population.plot: needs a complete round, got none; call run first")
        if what == "score":
            figure = peers_by_round(self._table("rounds"), "population", self.settings.primary)
        else:
            grafts = self._table("grafts")
            grafts = grafts.filter(pc.equal(grafts["receiver"], peer))
            if not grafts.num_rows:
                raise ModelError(f"Population.plot: {what} needs a peer that was grafted, got peer {peer}")
            figure = (alpha_map if what == "alpha" else entropy_maps)(grafts, peer)
        if figure.plot is None:
            raise ModelError(f"Population.plot: {what} shows no change; {figure.description}")
        return figure.plot

    def _table(self, name: Literal["rounds", "grafts"]) -> pa.Table:
        """Return the rows of all rounds so far, without the trial."""
        schema = schemas(self.settings.metrics)[name]
        schema = schema.remove(schema.get_field_index("trial_id"))
        if name == "rounds":
            return pa.Table.from_pylist([row for done in self._rounds for row in done.peers], schema)
        return pa.concat_tables(
            [schema.empty_table(), *(pa.table(done.grafts, schema) for done in self._rounds if done.grafts)]
        )

    def _repr_html_(self) -> str:
        """Return the state of the population as a table, for notebooks."""
        import pandas as pd

        primary, settings = self.settings.primary, self.settings
        facts = {
            "network": settings.model.name.rpartition(":")[2],
            "peers": settings.population.num_peers,
            "rounds": f"{len(self._rounds)} of {settings.num_rounds}",
            "best peer": self._best_peer if self._rounds else "",
            f"validation {primary.label}": primary.text(self._rounds[-1].score) if self._rounds else "",
            f"test {primary.label}": primary.text(self.outcome[primary.test]) if self.outcome else "",
        }
        return str(pd.DataFrame([facts]).to_html(index=False))

    def _new_network(self) -> nn.Module:
        with seeded(derive(self.settings.seed, "network"), torch.device("cpu")):
            return self._network(self._num_outputs)

    def _group(self) -> AbstractContextManager[Group]:
        if self._on_ray:
            from graftpop.cluster.standalone import ray_group

            return ray_group(self.settings, self._components)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return nullcontext(
            LocalGroup(
                lambda peer: Peer(self.settings, peer, device, components=self._components),
                self.settings.population.num_peers,
            )
        )


class _Splits:
    """Makes the splits of a peer; the user's number of reading processes replaces the one that the peer passes."""

    def __init__(self, make: Callable[..., Splits]) -> None:
        self._make = make

    def __call__(self, settings: Settings, num_workers: int) -> Splits:
        del num_workers
        return self._make(augmentation=settings.augmentation)


class _NewTask:
    """Makes the task of a peer: the user-defined one, else the one that its settings name."""

    def __init__(self, given: Callable[[], Task] | None) -> None:
        self._given = given

    def __call__(self, settings: Settings) -> Task:
        return make_task(settings.task, self._given)
