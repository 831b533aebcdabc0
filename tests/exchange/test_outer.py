"""DiLoCo's outer optimizer against torch's SGD."""

import pytest
import torch
from rule_makers import exchange_all, make_rules, parameter_mask

from graftpop.errors import SpaceError
from graftpop.space import parse_space


@pytest.mark.parametrize(("lr", "momentum"), [(0.7, 0.9), (1.0, 0.0), (0.3, 0.5)])
def test_three_exchanges_equal_torchs_nesterov_on_the_mean_change(lr: float, momentum: float) -> None:
    rules = make_rules("outer", {"lr": lr, "momentum": momentum}, 3, same_start=True)
    mask = parameter_mask(rules[0])
    theta = torch.nn.Parameter(rules[0].weights[mask].clone())
    torch_sgd = torch.optim.SGD([theta], lr=lr, momentum=momentum, nesterov=momentum > 0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for rule in rules:
            rule.weights.add_(0.1 * torch.randn(len(mask), generator=generator))
        before, after, figures = exchange_all(rules)
        theta.grad = theta.detach() - before[:, mask].mean(0)
        expected_norm = float(theta.grad.norm())
        torch_sgd.step()
        assert torch.allclose(after[:, mask], theta.detach().expand(3, -1), atol=1e-5)
        assert torch.allclose(after[:, ~mask], before[:, ~mask].mean(0).expand(3, -1), atol=1e-6)
        assert figures[0]["outer_gradient"] == pytest.approx(expected_norm, rel=1e-4)
        assert all(torch.equal(row, after[0]) for row in after)


def test_learning_rate_1_without_momentum_is_averaging() -> None:
    rules = make_rules("outer", {"lr": 1.0, "momentum": 0.0}, 3, same_start=True)
    for rule in rules:
        rule.weights.add_(torch.randn(len(rule.weights)))
    before, after, _ = exchange_all(rules)
    assert torch.allclose(after, before.mean(0).expand(3, -1), atol=1e-5)


def test_peers_of_outer_and_wash_start_from_the_same_weights() -> None:
    for rule in ("outer", "wash"):
        assert parse_space({rule: {}}).resolve().initialization == "same"
    assert parse_space({"papa": {}}).resolve().initialization == "own"
    assert parse_space({"papa": {}, "population": {"initialization": "same"}}).resolve().initialization == "same"


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"outer": {}, "population": {"initialization": "own"}}, "population.initialization"),
        ({"outer": {}, "population": {"mode": "async"}}, "population.mode"),
        ({"sparta": {}, "population": {"mode": "async"}}, "population.mode"),
        ({"wash": {}, "population": {"topology": "ring"}}, "population.topology"),
    ],
)
def test_rules_that_need_all_peers_at_one_step_refuse_others(tree: dict[str, dict[str, str]], key: str) -> None:
    with pytest.raises(SpaceError, match=rf"\b{key}: "):
        parse_space(tree)
