"""The search spaces of the project: all load and train, and those of papers have the published recipes."""

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from data_makers import write_market
from network_makers import seeded_small_net
from PIL import Image
from population_makers import networks, run, same
from rule_makers import exchange_all
from space_makers import make_settings

from graftpop.errors import SpaceError
from graftpop.exchange.build import make_rule
from graftpop.exchange.grafting import site_measures
from graftpop.exchange.rule import ExchangeContext
from graftpop.ops.alpha import adaptive_alpha
from graftpop.peer.peer import Peer
from graftpop.population import LocalGroup, Population
from graftpop.settings import Settings
from graftpop.sites import find_sites
from graftpop.space import Space, load_space
from graftpop.space.boundary import combinations
from graftpop.training.flat_state import FlatState
from graftpop.user_code import import_user_code

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "search_spaces"
PAPERS = sorted((FOLDER / "papers").glob("*.yaml"))
SPACES = sorted(FOLDER.rglob("*.yaml"))
COMPARISONS = [file for file in SPACES if "\nvariants:" in file.read_text(encoding="utf-8")]
CONTRASTS = ("one-5", "one-60", "one-100", "one-200", "one-stopped", "sequential")
"""Variants that are meant to cost more or less than the others."""
NUM_CLASSES, NUM_TRAINING_IMAGES = 10, 24
MOST_PEERS, NUM_ROUNDS = 3, 2
MOST_EPOCHS_OF_A_SMALL_RUN = 300
MOST_SETTINGS = 40  # trained of one space, evenly spaced

of_each = partial(pytest.mark.parametrize, ids=lambda file: file.stem)

RAN: dict[str, None] = {}
"""Settings that have trained already, since spaces share many."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a few images of 32 x 32 pixels into class folders, and return the root folder."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for part, num_images in (("train", NUM_TRAINING_IMAGES), ("test", NUM_CLASSES)):
        for number in range(num_images):
            class_folder = root / part / str(number % NUM_CLASSES)
            class_folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(class_folder / f"{number}.png")
    return str(root)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a few images of identities in the layout of Market-1501, and return the root folder."""
    root = tmp_path_factory.mktemp("people")
    write_market(root)
    return str(root)


def every_settings(space: Space, *seeds: int, **only: Sequence[str]) -> Iterator[Settings]:
    """Yield the settings of every trial of some seeds, by default of the first; a range gives its lowest value.

    Args:
        space: the space.
        seeds: the seeds.
        only: values of searched keys, in place of all.
    """
    values = {
        key: domain.every_value() if domain.is_finite else domain.boundary_values[:1]
        for key, domain in space.domains.items()
        if key != "seed"
    }
    return map(space.resolve, combinations(values | ({"seed": seeds} if seeds else {}) | only))


def small(settings: Settings, images: str, people: str = "", *, model: str | None = None) -> Settings:
    """Return the settings with tiny data and networks, two rounds, and few peers and cycles."""
    tree = settings.model_dump()
    tree["name"] = "small"
    tree["data"] |= {"name": "folder", "root": images, "val_fraction": 0.25, "max_train_images": None}
    if settings.task.name == "recognition":
        tree["data"] |= {"name": "market1501", "root": people, "image_size": 16, "val_fraction": 0.34}
    tree["model"] |= {"name": model or small_model(settings.model.name), "pretrained": False}
    tree["training"] |= {"epochs": NUM_ROUNDS, "total_epochs": None, "batch_size": 8, "precision": "float32"}
    tree["population"] |= {"num_peers": min(settings.population.num_peers, MOST_PEERS), "epochs_per_round": 1}
    for teacher in tree["distillation"]["teachers"] if tree["distillation"] else ():
        teacher |= {"model": small_model(teacher["model"]), "epochs": 1}
    if tree["repr"]:
        tree["repr"] |= {"S1": 1, "S2": 1, "N": 1}
    if tree["pruning"]:
        tree["pruning"] |= {"ticks": 1, "tock_epochs": 1}
    tree["tune"], tree["diagnostics"]["density_of"] = {}, None
    return Settings.model_validate(tree)


def small_model(name: str) -> str:
    return "resnet8_leaky" if name.endswith("_leaky") else "python:network_makers.TwoSites"


def assert_finite_figures(settings: Settings) -> None:
    """Train and test a population; assert that every peer that trains has a row of finite numbers in every round."""
    num_peers = settings.population.num_peers
    population = Population(LocalGroup(partial(Peer, settings), num_peers), settings)
    for number in range(1, settings.num_rounds + 1):
        done = population.step()
        assert [row["peer"] for row in done.peers] == [*range(1 if settings.trains_alone(number) else num_peers)]
        figures = [value for row in done.peers for key, value in row.items() if (key, value) != ("val_loss", None)]
        assert all(map(math.isfinite, [*figures, *done.grafts.get("alpha", ())]))
    outcome = population.finish(done)
    assert all(0 <= outcome[metric.test] <= 1 for metric in settings.metrics)


def head_comment(file: Path) -> str:
    """Return the lines before the first key, without their number signs."""
    lines = file.read_text(encoding="utf-8").splitlines()
    first_key = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#").strip() for line in lines[:first_key])


def epochs_of(space: Space) -> int:
    """Return the epochs that all networks of all trials train in total, including teachers."""
    return sum(
        settings.trained_epochs + epochs_of_teachers(settings)
        for settings in every_settings(space, *space.domains["seed"].values)
    )


def epochs_of_teachers(settings: Settings) -> int:
    return sum(teacher.epochs or 0 for teacher in settings.distillation.teachers) if settings.distillation else 0


# all spaces


@of_each("file", SPACES)
def test_space_written_as_yaml_reads_back_equal(file: Path, tmp_path: Path) -> None:
    space = load_space(file)
    (tmp_path / "written.yaml").write_text(space.to_yaml(), encoding="utf-8")
    assert load_space(tmp_path / "written.yaml") == space


@of_each("file", SPACES)
def test_published_rows_match_trials_and_are_distinct(file: Path) -> None:
    space = load_space(file)
    rows = space.published["scores"] if space.published else []
    seen = set()
    for row in rows:
        named = {key: value for key, value in row.items() if key not in ("percent", "std")}
        assert named.keys() == space.domains.keys() - {"seed"}
        assert all(value in space.domains[key].values for key, value in named.items())
        seen.add(tuple(sorted(named.items())))
    assert len(seen) == len(rows)


@of_each("file", COMPARISONS)
def test_variants_are_equal_in_the_accounting_that_their_space_names(file: Path) -> None:
    assert "\ncompare:" in file.read_text(encoding="utf-8")
    space = load_space(file)
    costs = set()
    for settings in every_settings(space, variant=[name for name in space.variants if name not in CONTRASTS]):
        teachers = settings.distillation.teachers if settings.distillation else []
        images = settings.trained_epochs + sum(teacher.epochs or 0 for teacher in teachers)
        costs.add({"images": images, "epochs": settings.num_epochs, "time": settings.num_epochs}[space.equal])
    assert len(costs) == 1


@of_each("file", SPACES)
def test_every_trial_trains_two_rounds_on_tiny_images(file: Path, images: str, people: str) -> None:
    every = {
        settings.model_dump_json(): settings
        for settings in (small(settings, images, people) for settings in every_settings(load_space(file)))
    }
    assert every
    for key, settings in list(every.items())[:: math.ceil(len(every) / MOST_SETTINGS)]:
        if key not in RAN:
            assert_finite_figures(settings)
            RAN[key] = None


def test_controls_have_the_values_of_adaptive_alpha_on_other_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shuffled, reversed_sign = (
        import_user_code(f"python:search_spaces.evidence.controls.{name}", "graft.alpha", SpaceError)
        for name in ("shuffled", "reversed_sign")
    )
    own, theirs = torch.linspace(1.0, 2.0, 12), torch.linspace(1.3, 1.7, 12)
    adaptive = adaptive_alpha(own, theirs, A=0.4, c=100.0, base=0.8)
    assert torch.equal(shuffled(own, theirs).sort().values, adaptive.sort().values)
    assert torch.equal(shuffled(own, theirs), shuffled(own, theirs))
    orders = {tuple(shuffled(own + shift, theirs + shift).argsort().tolist()) for shift in (0.0, 0.1, 0.2)}
    assert len(orders) == 3
    torch.testing.assert_close(reversed_sign(own, theirs) - 0.8, 0.8 - adaptive)


def test_momentum_is_blended_as_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    rules = []
    for peer in (0, 1):
        state = FlatState(seeded_small_net(peer))
        momenta = {entry.name: state.view_of(state.buffer, entry.name).clone() for entry in state.entries}
        sites = find_sites(seeded_small_net(peer), (3, 8, 8), "network", "all")
        settings = make_settings(exchange="python:search_spaces.evidence.rules.MomentumGrafting")
        measures = site_measures(state, sites, None)
        rule = make_rule(ExchangeContext(peer, state, sites, measures, settings, momentum=momenta.get))
        assert rule is not None
        rules.append(rule)
    before = rules[0].weights.clone()
    exchange_all(rules)
    state, momentum = rules[0].context.state, rules[0].context.momentum
    assert not torch.equal(state.buffer, before)
    for entry in state.entries:
        blended = momentum(entry.name)
        assert blended is not None
        if entry.is_parameter:
            torch.testing.assert_close(blended, state.view_of(state.buffer, entry.name))


def test_blended_momentum_changes_the_training(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    space = load_space(FOLDER / "evidence" / "saturated_variations.yaml")
    blended = small(space.resolve({"variant": "graft-momentum"}), images)
    tree = blended.model_dump()
    tree["exchange"], tree["graft"] = None, {"A": 0.4, "c": 100.0}
    one, other = (networks(run(settings)[0]) for settings in (blended, Settings.model_validate(tree)))
    assert not same(one, other)


@pytest.mark.parametrize(("name", "variant"), [("grafting_filter_level", "filter"), ("grafting_peers", "grafting-2")])
def test_networks_replaced_by_small_ones_train_too(name: str, variant: str, images: str) -> None:
    settings = load_space(FOLDER / "papers" / f"{name}.yaml").resolve({"variant": variant})
    assert settings.model.name in ("vgg16", "mobilenetv2")
    assert_finite_figures(small(settings, images, model=settings.model.name))


# spaces of papers


@of_each("file", [file for file in PAPERS if file.stem.startswith(("grafting", "cultivation"))])
def test_spaces_of_grafting_papers_have_the_published_recipe(file: Path) -> None:
    for settings in every_settings(load_space(file)):
        training, graft = settings.training, settings.graft
        assert (training.lr, training.momentum, training.weight_decay) == (0.1, 0.9, 5e-4)
        assert (settings.num_epochs, training.batch_size, settings.population.epochs_per_round) == (200, 128, 1)
        if graft is not None:
            has_different_rates = settings.population.diversity == "learning_rate"
            assert training.schedule == ("cosine" if has_different_rates else "step")
        if graft is not None and file.stem != "grafting_alpha":
            assert (graft.A, graft.c, graft.base, graft.alpha, graft.num_bins) == (0.4, 500, 0.5, "adaptive", 10)
        if settings.distillation is not None:
            assert (settings.distillation.temperature, settings.distillation.weight) == (2, 1)
            assert {teacher.epochs for teacher in settings.distillation.teachers} == {200}


def test_ablation_of_alpha_fixes_either_a_or_c() -> None:
    space = load_space(FOLDER / "papers" / "grafting_alpha.yaml")
    grafts = {name: space.resolve({"variant": name}).graft for name in space.variants}
    pairs = {(graft.A, graft.c): name for name, graft in grafts.items() if graft is not None}
    assert pairs.keys() == {*((0.4, c) for c in (1, 5, 10, 50, 100, 500)), *((a, 100) for a in (0, 0.2, 0.6, 0.8, 1))}
    assert all(name == f"A{a}-c{c:g}" for (a, c), name in pairs.items())


def test_space_of_recognition_has_the_published_recipe() -> None:
    for settings in every_settings(load_space(FOLDER / "papers" / "reid_market1501.yaml")):
        training, data, task = settings.training, settings.data, settings.task
        assert (training.lr, training.momentum, training.weight_decay) == (0.1, 0.9, 5e-4)
        assert (settings.num_epochs, training.batch_size) == (60, 32)
        assert (training.schedule, training.decay_epochs, training.decay_rate) == ("step", 20, 0.1)
        assert (task.label_smoothing, task.triplet_weight, task.distance) == (0.1, 0, "euclidean")
        assert (data.image_size, data.flip, settings.model.pretrained) == (256, True, True)
        assert (settings.population.num_peers == 1) == (settings.graft is None)
        if settings.graft is not None:
            assert (settings.graft.A, settings.graft.c, settings.population.diversity) == (0.4, 500, "learning_rate")


def test_repr_space_has_the_published_cycles_and_epochs() -> None:
    for settings in every_settings(load_space(FOLDER / "papers" / "repr_resnet.yaml")):
        assert (settings.num_epochs, settings.population.num_peers) == (150, 1)
        if settings.repr is not None:
            assert (settings.repr.S1, settings.repr.S2, settings.repr.N, settings.repr.rate) == (20, 10, 3, 0.3)


@of_each("file", PAPERS)
def test_paper_spaces_have_published_seeds_or_three(file: Path) -> None:
    space = load_space(file)
    has_std = space.published is not None and any("std" in row for row in space.published["scores"])
    assert space.domains["seed"].values == tuple(range(5 if has_std else 3))


@of_each("file", PAPERS)
def test_comment_gives_the_cost_in_epochs(file: Path) -> None:
    (cost,) = re.findall(r"^Cost: ([\d,]+) epochs in all", head_comment(file), re.MULTILINE)
    assert int(cost.replace(",", "")) == epochs_of(load_space(file))


@of_each("file", PAPERS)
def test_commands_in_comments_load_and_the_last_is_small(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    joined = head_comment(file).replace("\\\n", " ")
    commands = [shlex.split(line) for line in joined.splitlines() if line.startswith("python -m graftpop.tune ")]
    spaces = []
    for _, _, _, *options in commands:
        assert options[:2] == ["--space", str(file.relative_to(ROOT))]
        assert set(options[2::2]) == {"--set"}
        spaces.append(load_space(options[1], options[3::2]))
    assert epochs_of(spaces[-1]) <= MOST_EPOCHS_OF_A_SMALL_RUN
    for settings in every_settings(spaces[-1]):
        assert settings.data.name == ("omniglot" if settings.task.name == "recognition" else "digits")
        assert settings.model.name.startswith("resnet8")
