"""Tests of `training.patience` and `training.keep`: an early end, and the weights of the best round."""

from functools import partial
from typing import Any, ClassVar

import pytest
from population_makers import States, networks, same

from graftpop.errors import SpaceError
from graftpop.peer.peer import Peer
from graftpop.population import Event, LocalGroup, Population, Round
from graftpop.settings import Settings
from graftpop.space import parse_space

PATIENCE = 2


def settings(**sections: Any) -> Settings:
    tree: dict[str, Any] = {
        "data": {"name": "python:user_tasks.sums"},
        "task": "python:user_tasks.Regression",
        "model": {"name": "python:user_tasks.Net"},
        "training": {"epochs": 60, "batch_size": 16, "lr": 0.3, "schedule": "constant", "patience": PATIENCE},
        "population": {"num_peers": 2},
        "graft": {},
    }
    return parse_space({**tree, **sections}).resolve()


def population(wanted: Settings) -> Population:
    return Population(LocalGroup(partial(Peer, wanted), wanted.population.num_peers), wanted)


def ended(running: Population, scores: list[float]) -> Round:
    """Run to the end, and append the score of each round to `scores`."""
    while not (done := running.step()).is_last:
        scores.append(done.score)
    scores.append(done.score)
    return done


def test_training_ends_after_rounds_without_a_better_score() -> None:
    scores: list[float] = []
    running = population(settings())
    done = ended(running, scores)
    assert done.round < settings().num_rounds
    settled = [
        number > PATIENCE and min(scores[number - PATIENCE : number]) >= min(scores[: number - PATIENCE])
        for number in range(1, len(scores) + 1)
    ]
    assert settled == [False] * (len(scores) - 1) + [True]
    assert done.grafts == {}  # the last round does not exchange
    assert running.finish(done)["val_rmse"] == scores[-1]


def test_early_end_is_one_event() -> None:
    events: list[Event] = []
    wanted = settings()
    running = Population(LocalGroup(partial(Peer, wanted), 2), wanted, events.append)
    done = ended(running, [])
    (event,) = events
    assert (event.round, event.peer, event.event) == (done.round, None, "ended_early")
    assert str(PATIENCE) in event.cause
    whole = settings(training={"epochs": 2, "patience": 5})
    ended(Population(LocalGroup(partial(Peer, whole), 2), whole, events.append), [])
    assert len(events) == 1


def test_resumed_training_ends_at_the_same_round() -> None:
    whole: list[float] = []
    last = ended(population(settings()), whole)
    half = population(settings())
    scores = [half.step().score for _ in range(last.round - 1)]
    resumed = population(settings())
    resumed.load(dict(half.save()), half.round, {}, scores=scores)
    assert resumed.step().is_last
    assert whole[:-1] == scores


class Scripted(Peer):
    """A peer whose scores are given, round by round."""

    scores: ClassVar[list[float]]

    def train(self, num_epochs: int) -> Any:
        return self.scored(super().train(num_epochs))

    def end(self) -> Any:
        return self.scored(super().end())

    def scored(self, row: Any) -> Any:
        return {**row, "val_rmse": self.scores[row["epoch"] - 1]}


@pytest.mark.parametrize(("scores", "num_rounds"), [([3, 2, 2, 2, 1], 4), ([2, 1, 2, 1, 1], 4), ([3, 3, 2, 3, 1], 5)])
def test_equal_score_is_no_better_and_every_round_counts(scores: list[float], num_rounds: int) -> None:
    wanted = settings(training={"epochs": 5, "patience": 2}, population={"num_peers": 1}, graft=None)
    peer = type("Peer", (Scripted,), {"scores": scores})
    found: list[float] = []
    ended(Population(LocalGroup(partial(peer, wanted), 1), wanted), found)
    assert found == scores[:num_rounds]


def scores_of(done: Round) -> list[float]:
    """Return the validation score of every peer."""
    return [settings().primary.value_of(row) for row in done.peers]


KEEP_BEST = {"training": {**settings().model_dump()["training"], "keep": "best"}}


def test_peers_end_with_the_weights_of_their_best_round() -> None:
    alone: dict[str, Any] = {"graft": None, "population": {"num_peers": 2}}
    plain, scores, after = population(settings(**alone)), list[list[float]](), list[States]()
    while True:
        done = plain.step()
        scores.append(scores_of(done))
        after.append(networks(plain))
        if done.is_last:
            break
    kept = population(settings(**alone, **KEEP_BEST))
    while not (ended := kept.step()).is_last:
        assert scores_of(ended) == scores[ended.round - 1]
    assert ended.round == done.round
    best = [min(range(len(scores)), key=lambda place: scores[place][peer]) for peer in (0, 1)]
    assert any(place < len(scores) - 1 for place in best)
    assert scores_of(ended) == [scores[place][peer] for peer, place in enumerate(best)]
    assert same(networks(kept), {peer: after[place][peer] for peer, place in enumerate(best)})
    outcome = kept.finish(ended)
    assert outcome["val_rmse"] == min(map(min, scores))
    assert outcome["test_rmse"] != plain.finish(done)["test_rmse"]


def test_whole_training_ends_with_the_best_round_and_resumes_to_the_bit() -> None:
    tree = {"epochs": 12, "batch_size": 16, "lr": 0.3, "schedule": "constant", "keep": "best"}
    wanted = settings(training=tree, population={"num_peers": 2})
    whole, scores = population(wanted), list[list[float]]()
    halves = dict[int, dict[int, bytes]]()
    while not (done := whole.step()).is_last:
        scores.append(scores_of(done))
        halves[done.round] = dict(whole.save())
    last = scores_of(done)
    assert all(own <= min(row[peer] for row in scores) for peer, own in enumerate(last))
    assert any(own in [row[peer] for row in scores] for peer, own in enumerate(last))
    resumed = population(wanted)
    resumed.load(halves[done.round - 1], done.round - 1, {})
    assert scores_of(resumed.step()) == last
    assert same(networks(resumed), networks(whole))


def test_kept_weights_are_refused_with_pruning() -> None:
    with pytest.raises(SpaceError, match=r"training\.keep: .*pruning"):
        settings(pruning={}, training={"epochs": 4, "keep": "best"})


def test_rounds_before_the_branch_are_not_the_last_ones() -> None:
    scores = [1.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    tree = {"epochs": 6, "patience": 2}
    wanted = settings(training=tree, population={"num_peers": 2, "branch_at": 0.5}, graft=None)
    peer = type("Peer", (Scripted,), {"scores": scores})
    done = ended(Population(LocalGroup(partial(peer, wanted), 2), wanted), [])
    assert done.round == 5


@pytest.mark.parametrize(
    "method", [{"swa": {}}, {"pruning": {}}, {"repr": {}}, {"population": {"num_peers": 2, "mode": "async"}}]
)
def test_methods_that_need_the_length_of_the_training_are_refused(method: dict[str, Any]) -> None:
    with pytest.raises(SpaceError, match=r"training\.patience: "):
        settings(**method)


def test_all_peers_keep_the_same_weights() -> None:
    """A soup is made in a peer that loads the states of the others, which must have what its own has."""
    with pytest.raises(SpaceError, match=r"population\.diversity: 'training\.keep'"):
        settings(graft=None, population={"num_peers": 2, "diversity": {"training.keep": ["last", "best"]}})
