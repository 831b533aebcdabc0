"""User-defined exchange rules, alphas and criteria: used as they are, or refused in one line."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from network_makers import seeded_small_net
from space_makers import make_settings
from torch import Tensor
from user_parts import Pull, keep_the_better, spread

from graftpop.errors import SpaceError
from graftpop.exchange.build import check_user_parts, make_rule
from graftpop.exchange.grafting import Grafting, site_measures
from graftpop.exchange.rule import ExchangeContext, ExchangeRule
from graftpop.exchange.snapshots import take_snapshot
from graftpop.exchange.user_parts import named_user_parts
from graftpop.ops.criteria import Filters
from graftpop.settings import Settings
from graftpop.sites import find_sites
from graftpop.training.flat_state import FlatState
from graftpop.training.snapshot import Snapshot

NOTHING = torch.empty(0, dtype=torch.int64)


def check(settings: Settings, **parts: Callable[..., Any]) -> None:
    network = seeded_small_net(0)
    sites = find_sites(network, (3, 8, 8), "network", "all")
    check_user_parts(settings, network, sites, {key.replace("_", "."): part for key, part in parts.items()})


def test_alpha_and_criterion_decide_the_blend_of_every_unit() -> None:
    settings = make_settings(
        graft={"alpha": "python:user_parts.keep_the_better", "criterion": "python:user_parts.spread", "level": "filter"}
    )
    networks = [seeded_small_net(seed) for seed in (1, 2)]
    name = find_sites(networks[0], (3, 8, 8), "network", "all")[0].weight.tensor
    weights = [network.state_dict()[name].clone() for network in networks]
    rules = []
    for peer, network in enumerate(networks):
        state, sites = FlatState(network), find_sites(network, (3, 8, 8), "network", "all")
        rules.append(make_rule(ExchangeContext(peer, state, sites, site_measures(state, sites, None), settings)))
    receiver, donor = rules
    assert isinstance(receiver, Grafting)
    assert donor is not None
    receiver.receive([take_snapshot(donor.context.state, 1, NOTHING.double(), NOTHING, {})])
    draws_nothing = torch.Generator()
    share = keep_the_better(*(spread(Filters(weight), draws_nothing) for weight in weights)).view(-1, 1, 1, 1)
    expected = share * weights[0] + (1 - share) * weights[1]
    assert torch.allclose(networks[0].state_dict()[name], expected, atol=1e-6)
    assert 0.1 < float(share.mean()) < 0.9


def test_named_parts_are_listed_by_key() -> None:
    graft = {"alpha": "python:user_parts.keep_the_better", "criterion": "python:user_parts.spread"}
    assert named_user_parts(make_settings(graft=graft)) == {f"graft.{key}": name for key, name in graft.items()}
    assert named_user_parts(make_settings(exchange="python:user_parts.Pull")) == {"exchange": "python:user_parts.Pull"}
    assert named_user_parts(make_settings(graft={"criterion": "l2"})) == {}
    assert named_user_parts(make_settings(graft={**graft, "source": "noise"})) == {}


def test_good_parts_pass_the_check() -> None:
    check(make_settings(exchange="python:user_parts.Pull"))
    check(make_settings(exchange="python:elsewhere.Pull"), exchange=Pull)
    check(make_settings(graft={"alpha": "python:user_parts.keep_the_better"}))
    check(make_settings(graft={"criterion": "python:user_parts.spread"}))


def nan_alpha(own: Tensor, theirs: Tensor) -> Tensor:
    return own / 0 * 0


def alpha_above_1(own: Tensor, theirs: Tensor) -> Tensor:
    return own * 0 + 1.5


def one_alpha(own: Tensor, theirs: Tensor) -> Tensor:
    return torch.tensor(0.5)


def failing(*arguments: Any) -> Tensor:
    raise KeyError("my_table")


def number(*arguments: Any) -> float:
    return 0.5


class Diverging(ExchangeRule):
    def receive(self, donors: Sequence[Snapshot]) -> None:
        self.weights.div_(0.0)


class Replacing(ExchangeRule):
    def receive(self, donors: Sequence[Snapshot]) -> None:
        self.context.state.buffer = self.weights.clone()


class Text(ExchangeRule):
    def receive(self, donors: Sequence[Snapshot]) -> Any:
        return {"papa": "high"}


class Publishing(ExchangeRule):
    def publish(self) -> Any:
        return [1, 2]

    def receive(self, donors: Sequence[Snapshot]) -> None:
        return None


class Unready(ExchangeRule):
    def begin(self) -> None:
        raise OSError("no anchor")

    def receive(self, donors: Sequence[Snapshot]) -> None:
        return None


class Abstract(ExchangeRule):
    pass


@pytest.mark.parametrize(
    ("key", "part", "parts_of_message"),
    [
        ("graft_alpha", nan_alpha, ("graft.alpha", "finite")),
        ("graft_alpha", alpha_above_1, ("graft.alpha", "[0, 1]", "1.5")),
        ("graft_alpha", one_alpha, ("graft.alpha", "shape ()")),
        ("graft_alpha", failing, ("graft.alpha", "KeyError", "my_table", "test_user_parts.py:")),
        ("graft_alpha", number, ("graft.alpha", "float")),
        ("graft_criterion", failing, ("graft.criterion", "my_table")),
        ("graft_criterion", number, ("graft.criterion", "float")),
        ("exchange", Diverging, ("exchange", "finite")),
        ("exchange", Replacing, ("exchange", "in place")),
        ("exchange", Text, ("exchange", "numbers by name")),
        ("exchange", Publishing, ("exchange", "publish", "list")),
        ("exchange", Unready, ("exchange", "no anchor")),
        ("exchange", Abstract, ("exchange", "NotImplementedError")),
        ("exchange", failing, ("exchange", "ExchangeRule")),
    ],
)
def test_bad_parts_are_refused_in_one_line(
    key: str, part: Callable[..., Any], parts_of_message: tuple[str, ...]
) -> None:
    section, _, name = key.partition("_")
    value = "python:mine.part"
    with pytest.raises(SpaceError) as caught:
        check(make_settings(**{section: {name: value} if name else value}), **{key: part})
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in (*parts_of_message, value) if part not in message] == [], message


def test_part_that_cannot_be_imported_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"^graft\.alpha: [^\n]*no_such_module[^\n]*cannot be imported[^\n]*$"):
        check(make_settings(graft={"alpha": "python:no_such_module.rule"}))


def test_part_that_its_module_lacks_is_refused_with_the_closest_one() -> None:
    with pytest.raises(SpaceError, match=r"^graft\.alpha: [^\n]*'keep_the_beter'[^\n]*'keep_the_better'[^\n]*$"):
        check(make_settings(graft={"alpha": "python:user_parts.keep_the_beter"}))
    with pytest.raises(SpaceError, match=r"^graft\.alpha: [^\n]*'user_parts' has no 'absent'[^\n]*$"):
        check(make_settings(graft={"alpha": "python:user_parts.absent"}))


def test_rule_gets_copies_of_the_snapshots() -> None:
    class Writing(ExchangeRule):
        def receive(self, donors: Sequence[Snapshot]) -> None:
            for donor in donors:
                donor.weights_on(self.weights.device).zero_()

    state = FlatState(seeded_small_net(0))
    context = ExchangeContext(0, state, [], site_measures(state, [], None), make_settings(exchange="python:mine.Rule"))
    rule = make_rule(ExchangeContext(**{**vars(context), "user_parts": {"exchange": Writing}}))
    assert rule is not None
    snapshot = take_snapshot(FlatState(seeded_small_net(1)), 1, NOTHING.double(), NOTHING, {})
    snapshot.weights.flags.writeable = False
    before = snapshot.weights.copy()
    rule.receive([snapshot])
    assert (snapshot.weights == before).all()
