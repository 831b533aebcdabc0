"""docs/fidelity.md names a test for every departure and every function of ops, and gives the defaults."""

import importlib
import re
from pathlib import Path
from types import FunctionType

import pytest
import torch
from network_makers import seeded_network

from graftpop.exchange.grafting import site_measures
from graftpop.settings import (
    AugmentationSettings,
    DistillationSettings,
    GraftSettings,
    MutualSettings,
    PopulationSettings,
    ReprSettings,
    Settings,
    TeacherSettings,
    TrainingSettings,
)
from graftpop.sites import find_sites
from graftpop.space.keys import known_keys
from graftpop.training.flat_state import FlatState

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
NAMED_TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", DOCUMENT)))
OPS = sorted(file.stem for file in (ROOT / "graftpop" / "ops").glob("*.py") if file.stem != "__init__")


def test_every_test_is_named_by_path_and_function() -> None:
    assert DOCUMENT.count("tests/") == len(re.findall(r"`tests/[\w/]+\.py::\w+`", DOCUMENT)) + len(
        re.findall(r"`tests/support/references\.py`", DOCUMENT)
    )
    assert len(NAMED_TESTS) > 40


@pytest.mark.parametrize("module", OPS)
def test_every_public_function_of_ops_is_documented(module: str) -> None:
    public = importlib.import_module(f"graftpop.ops.{module}")
    functions = [name for name in public.__all__ if isinstance(getattr(public, name), FunctionType)]
    assert functions
    assert [name for name in functions if f"`ops.{module}.{name}`" not in DOCUMENT] == []


def test_every_named_function_exists() -> None:
    named = re.findall(
        r"`((?:ops|data|models|training|hooks|losses|exchange|settings|population|peer|run|cluster)[.\w]*\.\w+)`",
        DOCUMENT,
    )
    for full_name in set(named) - set(known_keys(Settings)):
        parts = f"graftpop.{full_name}".split(".")
        for length in range(len(parts), 1, -1):
            try:
                found = importlib.import_module(".".join(parts[:length]))
            except ModuleNotFoundError:
                continue
            for attribute in parts[length:]:
                assert hasattr(found, attribute), full_name
                found = getattr(found, attribute)
            break
    assert len(named) > 20


def test_departures_are_numbered_consecutively() -> None:
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", DOCUMENT, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    for row in re.findall(r"^\| \d+ \|.*$", DOCUMENT, re.MULTILINE):
        assert "`tests/" in row, row


def test_defaults_are_the_published_ones() -> None:
    graft, training = GraftSettings(), TrainingSettings()
    assert (graft.alpha, graft.A, graft.c, graft.num_bins, graft.level) == ("adaptive", 0.4, 500.0, 10, "layer")
    assert (Settings().num_epochs, training.batch_size, training.lr) == (200, 128, 0.1)
    assert (training.momentum, training.weight_decay, training.schedule) == (0.9, 5e-4, "step")
    assert (Settings(graft=graft).topology, PopulationSettings().epochs_per_round) == ("ring", 1)
    assert (graft.source, graft.criterion, graft.threshold, graft.noise_base) == ("external", "entropy", 0.1, 0.975)
    taught = DistillationSettings(teachers=[TeacherSettings(model="resnet56", epochs=200)])
    assert (taught.temperature, taught.weight) == (2.0, 1.0)
    assert (MutualSettings().temperature, MutualSettings().weight) == (1.0, 1.0)
    repr_ = ReprSettings()
    assert (repr_.S1, repr_.S2, repr_.N, repr_.rate, repr_.skip_first) == (20, 10, 3, 0.3, True)
    assert repr_.criterion == "orthogonality"
    assert (AugmentationSettings().num_ops, AugmentationSettings().magnitude) == (2, 9)


@pytest.mark.parametrize(("compat", "expected"), [("none", 17_544), ("released_code", 17_088)])
def test_compat_counts_filters_of_modules_with_conv_in_their_name(compat: str, expected: int) -> None:
    network = seeded_network("mobilenetv2")
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()  # then every filter is invalid
    settings = GraftSettings.model_validate({"compat": compat})
    measures = site_measures(FlatState(network), find_sites(network, (3, 32, 32), "mobilenetv2", "conv_bn"), settings)
    assert int(measures.num_invalid_filters.sum()) == expected
