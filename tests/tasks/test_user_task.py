"""Tests of user-defined tasks: in a space, in Python, with a metric to minimize, and refused."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import user_tasks
from network_makers import same_bits
from safetensors.torch import load as tensors_from_bytes
from user_tasks import Net, NormNet, Regression, sums

import graftpop
from graftpop.data import load_splits
from graftpop.errors import GraftpopError, SpaceError
from graftpop.metrics import Metric
from graftpop.peer.peer import Peer
from graftpop.population import LocalGroup, Population
from graftpop.rows import TrialRow, columns_of
from graftpop.run.schemas import schemas
from graftpop.settings import Settings
from graftpop.space import parse_space
from graftpop.study.preflight import check_data_and_models, check_names, user_code_names
from graftpop.tasks.check import check_network
from graftpop.tasks.find import make_task
from graftpop.tasks.user_task import UserTask

SPACE = {
    "task": "python:user_tasks.Regression",
    "data": {"name": "python:user_tasks.sums"},
    "model": {"name": "python:user_tasks.Net"},
    "training": {"epochs": 4, "batch_size": 16, "lr": 0.05, "schedule": "cosine"},
    "population": {"num_peers": 3},
    "graft": {},
}
METRICS = (Metric("rmse", "min"), Metric("worst", "min"))


def settings(**sections: Any) -> Settings:
    return parse_space({**SPACE, **sections}).resolve()


def population(wanted: Settings) -> Population:
    return Population(LocalGroup(partial(Peer, wanted), wanted.population.num_peers), wanted)


def test_metrics_of_the_class_are_those_of_the_space() -> None:
    assert settings().metrics == METRICS
    assert settings().objectives == {"val_rmse": "min"}
    assert settings(tune={"metric": ["auto", "parameters"]}).objectives == {"val_rmse": "min", "parameters": "min"}


def test_recorded_space_needs_no_import() -> None:
    text = parse_space(SPACE).to_yaml()
    assert "metrics:\n    rmse: min\n    worst: min" in text


def test_user_code_of_task_and_data_is_named() -> None:
    space = parse_space(SPACE)
    assert user_code_names(space) == [SPACE["task"], SPACE["data"]["name"], SPACE["model"]["name"]]  # type: ignore[index]
    check_names(space)
    assert check_data_and_models(space).sites == [
        "python:user_tasks.Net: 2 sites (auto chose all) with 100.0% of the parameters"
    ]


def test_lower_is_better_everywhere() -> None:
    running = population(settings(population={"num_peers": 3, "topology": "best", "output": "greedy_soup"}))
    while not (done := running.step()).is_last:
        errors = {row["peer"]: METRICS[0].value_of(row) for row in done.peers}
        assert done.best_peer == min(errors, key=errors.__getitem__)
        assert done.score == min(errors.values())
    outcome = running.finish(done)
    assert outcome["val_rmse"] <= done.score  # the soup keeps what does not make it worse
    assert {"test_rmse", "test_worst", "ensemble_test_rmse", "ensemble_test_worst"} <= outcome.keys()


def test_tables_have_the_columns_of_the_task() -> None:
    assert list(columns_of(TrialRow, METRICS))[:6] == [
        f"{split}_{name}" for split in ("val", "test", "ensemble_test") for name in ("rmse", "worst")
    ]
    assert {"val_rmse", "val_worst"} <= set(schemas(METRICS)["rounds"].names)
    assert "val_accuracy" not in schemas(METRICS)["rounds"].names


def test_population_resumes_to_the_bit() -> None:
    whole, half = population(settings()), population(settings())
    for _ in range(2):
        whole.step()
        half.step()
    resumed = population(settings())
    resumed.load(dict(half.save()), half.round, {})
    for _ in range(2):
        whole.step()
        resumed.step()
    for (_, expected), (_, state) in zip(whole.save(), resumed.save(), strict=True):
        found = tensors_from_bytes(state)
        assert all(torch.equal(tensor, found[name]) for name, tensor in tensors_from_bytes(expected).items())


def test_population_in_python_equals_that_of_the_space() -> None:
    made = graftpop.Population(
        Net, *sums(), task=Regression, training=SPACE["training"], population=SPACE["population"], graft={}
    )
    scores = [done.score for done in made.run()]
    running = population(settings())
    assert scores == [running.step().score for _ in range(4)]
    assert scores[-1] < scores[0]
    assert made.outcome["test_rmse"] > 0
    assert made.network()(torch.zeros(1, 4)).shape == (1, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RaisesInLoss", r"\.loss failed: .*no loss today.*user_tasks\.py"),
        ("LossPerItem", r"\.loss must return a scalar tensor of .* got a tensor of shape \(\d+, 1\)"),
        ("InfiniteLoss", r"\.loss must be finite"),
        ("ConstantLoss", r"\.loss must depend on the network's weights"),
        ("LacksAMetric", r"\.score must return .*rmse, worst, got \['rmse'\]"),
        ("ScoresNan", r"\.score must return .*finite.* rmse.*, got .*'rmse': nan"),
        ("ScoresInfinity", r"\.score must return .*finite.* rmse.*, got .*'rmse': inf"),
        ("WorstIsNan", r"\.score must return .*, got .*'worst': nan"),
        ("AccuracyInPercent", r"\.score must return .*\[0, 1\].* accuracy.*, got .*'accuracy': 40"),
        ("NegativeRank", r"\.score must return .*\[0, 1\].* rank1.*, got .*'rank1': -0\.5"),
        ("ScoresText", r"\.score failed: .*low"),
        ("PredictsOneNumber", r"\.predict must return a tensor with \d+ rows.* got a tensor of shape \(1, 1\)"),
        ("ReturnsNoTensor", r"\.forward must return a tensor.* got \{'prediction'"),
        ("LossOfText", r"\.validation_loss failed: .*low"),
        ("CorrectPerItem", r"\.num_correct must return a number.* got a tensor of shape \(\d+,\)"),
        ("LogitsOfNone", r"\.logits must return a tensor.* got None"),
        ("MetricInGreek", r"\.metrics: .*letters"),
        ("NoMetrics", r"\.metrics must be"),
        ("MetricNamedLoss", r"\.metrics: .*loss"),
        ("Raises", r"\(\) failed: .*cannot be made"),
        ("OutputsAsText", r"\.num_outputs must be a whole number above 0, got '1'"),
        ("NoOutputs", r"\.num_outputs must be a whole number above 0, got 0"),
        ("LossOfIntegers", r"\.loss must return a scalar tensor of floating-point numbers, got .*shape \(\).*int64"),
        ("OneItemLeft", r"\.forward must return .* with \d+ rows, got a tensor of shape \(1, 1\)"),
        ("OneItemLeftInSecond", r"\.forward must return .* with \d+ rows, got a tensor of shape \(1, 1\)"),
        ("OneItemInferred", r"\.infer must return .* with \d+ rows, got a tensor of shape \(1, 1\)"),
        ("FurtherScore", r"\.score must return .*rmse, worst, got \['median', 'rmse', 'worst'\]"),
        ("CombinesToOne", r"\.combine must return a tensor with \d+ rows, got a tensor of shape \(1, 1\)"),
        ("CombinesToANumber", r"\.combine must return a tensor with \d+ rows, got a tensor of shape \(\)"),
        ("FailsToCombine", r"\.combine failed: .*not together"),
        ("FailsInValidation", r"\.validation_loss failed: .*not validated"),
        ("ValidationLossPerItem", r"\.validation_loss failed: "),
        ("DecidesTwice", r"\.decisions must return .*int64.* \(\d+,\).* got a tensor of shape \(\d+, 2\)"),
        ("DecidesOnce", r"\.decisions must return .*int64.* \(\d+,\).* got a tensor of shape \(1,\)"),
        ("DecidesInFloats", r"\.decisions must return .*int64.* \((\d+),\).* got .* \(\1,\), torch\.float32"),
        ("LogitsOfOneAxis", r"\.logits must return a tensor \(B, C\), got a tensor of shape \(\d+,\)"),
        ("MoreCorrectThanItems", r"\.num_correct must be in \[0, (\d+)\], got \d+"),
        ("CorrectAsText", r"\.num_correct must return a number or None, got '3'"),
        ("NoOutputsAtAll", r"\.forward must return a tensor.* got \(\)"),
        ("MetricsTwice", r"\.metrics: .*distinct"),
        ("MetricUpward", r"\.metrics: .*max or min, got .*up"),
        ("MetricOfTwoWords", r"\.metrics: .*got .*mean error"),
        ("number", r"must make a graftpop\.Task, got int"),
        ("NoTask", r"must be a subclass of graftpop\.Task, got another class"),
        ("Absent", r"user_tasks.*Absent"),
    ],
)
def test_unsuitable_task_is_refused_before_anything_starts(name: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message) as caught:
        check_data_and_models(parse_space({**SPACE, "task": f"python:user_tasks.{name}"}))
    assert f"python:user_tasks.{name}" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(SpaceError, match=message):
        graftpop.Population(Net, *sums(), task=getattr(user_tasks, name, None) or "python:user_tasks.Absent")


def test_name_of_something_else_than_a_class_is_refused() -> None:
    with pytest.raises(SpaceError, match=r"python:user_tasks\.NUMBER must be a subclass of graftpop\.Task, got int"):
        parse_space({**SPACE, "task": "python:user_tasks.NUMBER"})


def test_numbers_may_be_of_python_or_of_torch() -> None:
    running = population(settings(task="python:user_tasks.Numbers"))
    row = running.step().peers[0]
    assert type(row["val_loss"]) is float
    assert 0 <= (row["train_accuracy"] or 0) <= 1


def test_peers_disagree_where_decisions_of_their_task_differ() -> None:
    wanted = settings(task="python:user_tasks.Decides", population={"num_peers": 2}, diagnostics={"pairs": True})
    running = population(wanted)
    user_tasks.Decides.made.clear()
    (share,) = [row["value"] for row in running.step().diagnostics if row["diagnostic"] == "disagreement"]
    first, second = user_tasks.Decides.made
    assert share == (first != second).double().mean() > 0


def test_metric_other_than_the_primary_may_be_infinite() -> None:
    wanted = settings(task="python:user_tasks.WorstIsInfinite")
    running = population(wanted)
    while not (done := running.step()).is_last:
        assert done.score < float("inf")
    assert running.finish(done)["test_worst"] == float("inf")


def test_share_may_be_above_1_by_rounding() -> None:
    check_data_and_models(parse_space({**SPACE, "task": "python:user_tasks.RoundedAccuracy"}))


def test_trial_run_leaves_the_network_as_it_was() -> None:
    network = NormNet(1)
    before = copy.deepcopy(network.state_dict())
    wanted = settings(model={"name": "python:user_tasks.NormNet"})
    check_network(wanted, make_task(wanted.task), network, load_splits(wanted.data, seed=0, task=wanted.task))
    assert same_bits(before, network.state_dict())
    assert network.training


def test_lack_of_memory_is_not_blamed_on_the_task() -> None:
    class Large(Regression):
        def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("too large")

    with pytest.raises(torch.OutOfMemoryError):
        UserTask(Large, "task.name: large").loss(torch.zeros(1), torch.zeros(1))


def test_metrics_of_a_recorded_space_are_not_read_again() -> None:
    wanted = parse_space({"task": {"name": "python:absent_module.Task", "metrics": {"rmse": "min", "mae": "min"}}})
    assert [metric.name for metric in wanted.resolve().metrics] == ["rmse", "mae"]


def test_wrong_shape_of_outputs_shows_in_the_loss() -> None:
    with pytest.warns(UserWarning, match="size"):  # torch broadcasts them, with a warning
        check_data_and_models(parse_space({**SPACE, "task": "python:user_tasks.ThreeOutputs"}))


@pytest.mark.parametrize(
    "method", [{"mutual": {}}, {"distillation": {"teachers": [{"model": "resnet8", "epochs": 1}]}}]
)
def test_methods_that_compare_logits_are_refused_without_them(method: dict[str, Any]) -> None:
    with pytest.raises(GraftpopError, match="logits"):
        check_data_and_models(parse_space({**SPACE, **method}))


def test_metrics_other_than_the_class_has_are_refused() -> None:
    tree = {**SPACE, "task": {"name": SPACE["task"], "metrics": {"rmse": "max"}}}
    with pytest.raises(SpaceError, match=r"task\.metrics"):
        check_data_and_models(parse_space(tree))


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"task": {"name": {"choice": ["classification", "recognition"]}}}, "task.name"),
        ({"variants": {"a": None, "b": {"task": "recognition"}}}, "variants.b.task.name"),
        ({"variants": {"a": None, "b": {"task": {"metrics": {"rmse": "max"}}}}}, "variants.b.task.metrics"),
        ({"tune": {"metric": "val_accuracy"}}, "tune.metric"),
        ({"tune": {"mode": "max"}}, "tune.mode"),
        ({"augmentation": {"mixup": 0.2}}, "augmentation.mixup"),
        ({"task": {"metrics": {"accuracy": "min"}}}, "task.metrics"),
        ({"augmentation": {"cutmix": 0.2}}, "augmentation.cutmix"),
    ],
)
def test_keys_that_do_not_fit_the_task_are_refused(sections: dict[str, Any], key: str) -> None:
    with pytest.raises(SpaceError, match=rf"\b{key}: "):
        parse_space({**SPACE, **sections})


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"augmentation": {"erasing": 0.5}}, "augmentation.erasing"),
        (
            {"population": {"num_peers": 2, "diversity": {"augmentation.color_jitter": [0.1]}}},
            "augmentation.color_jitter",
        ),
        ({"data": {"name": "python:user_tasks.sums", "flip": True}}, "data.flip"),
        ({"data": {"name": "python:user_tasks.sums", "crop_padding": 2}}, "data.crop_padding"),
    ],
)
def test_keys_that_do_not_fit_user_defined_data_are_refused(sections: dict[str, Any], key: str) -> None:
    with pytest.raises(GraftpopError, match=rf"^{key}: "):
        check_data_and_models(parse_space({**SPACE, **sections}))


def test_data_function_that_returns_no_data_sets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no_data.py").write_text("def none(): return 1, 2\ndef fails(): return 1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name, message in (("none", r"must return \(train, test\).*'int', 'int'"), ("fails", "division by zero")):
        with pytest.raises(GraftpopError, match=message):
            check_data_and_models(parse_space({**SPACE, "data": {"name": f"python:no_data.{name}"}}))
