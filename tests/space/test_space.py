"""Spaces from files and overrides: reading, messages, and writing as YAML."""

import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from space_makers import SECTIONS

from graftpop.errors import SpaceError
from graftpop.models import find_model
from graftpop.settings import Settings
from graftpop.space import Domain, Space, load_space, parse_space
from graftpop.space.boundary import boundary_samples
from graftpop.space.keys import known_keys
from graftpop.space.search_constraints import UNDER_PBT
from graftpop.space.yaml_text import MAX_CHARS, MAX_DEPTH, MAX_NODES, MAX_SCALAR_CHARS, read_yaml
from graftpop.space.yaml_tree import put

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
TOP_LEVEL = ", ".join([*Settings.model_fields, "variants, seeds, baseline, compare, published"])


@pytest.fixture
def space_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("space.yaml")


def refusal(file: Path, text: str, *overrides: str) -> str:
    """Return the message that refuses a file with overrides; assert that it is one line."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SpaceError) as caught:
        load_space(file, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def space_of_yaml(space: Space) -> Space:
    return parse_space(yaml.safe_load(space.to_yaml()))


def loaded(file: Path, text: str, *overrides: str) -> Space:
    file.write_text(text, encoding="utf-8")
    return load_space(file, overrides)


# files


def test_empty_file_gives_the_defaults(space_file: Path) -> None:
    space = loaded(space_file, "# nothing\n")
    assert space.resolve() == Settings()
    assert not space.domains


@pytest.mark.parametrize(
    ("written", "lr"),
    [("1e-2", 0.01), ("1E-2", 0.01), ("2.5e-3", 0.0025), (".5e-1", 0.05), ("+1e0", 1.0), ("1.e+0", 1.0), ("1e1", 10.0)],
)
def test_number_may_have_an_exponent_without_a_point(space_file: Path, written: str, lr: float) -> None:
    of_file = loaded(space_file, f"training: {{lr: {written}}}\n").resolve().training.lr
    assert (of_file, type(of_file)) == (lr, float)
    assert loaded(space_file, "", f"training.lr={written}").resolve().training.lr == lr


@pytest.mark.parametrize(
    ("written", "seed"), [("010", 10), ("089", 89), ("+07", 7), ("1_000", 1000), ("0x1F", 31), ("0b11", 3)]
)
def test_leading_zeros_do_not_change_a_whole_number(space_file: Path, written: str, seed: int) -> None:
    assert loaded(space_file, f"seed: {written}").resolve().seed == seed
    assert loaded(space_file, "", f"seed={written}").resolve().seed == seed


@pytest.mark.parametrize(("key", "written"), [("seed", "1:30"), ("training.lr", "1:30.5")])
def test_colon_in_a_number_is_refused(space_file: Path, key: str, written: str) -> None:
    """YAML 1.1 reads it in base 60."""
    message = refusal(space_file, "", f"{key}={written}")
    assert message.startswith(f"--set {key}={written}: {key}: ")
    assert f"got '{written}'" in message


@pytest.mark.parametrize("name", ["1e5", "089", "010", "-.5"])
def test_text_that_looks_like_a_number_stays_text_in_the_written_space(space_file: Path, name: str) -> None:
    space = loaded(space_file, f"model: {{name: torchvision:resnet18, args: {{weights: '{name}'}}}}\n")
    space_file.write_text(space.to_yaml(), encoding="utf-8")
    assert load_space(space_file) == space
    assert space.resolve().model.args == {"weights": name}


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("[1]", "space.yaml: ", "got list"),
        ("just text", "space.yaml: ", "got str"),
        ("a: b: c", "space.yaml: line 1 ", "mapping values"),
        ("seed: 1\n\t- a", "space.yaml: line 2 ", "'\\t'"),
        ("seed: *other", "space.yaml: line 1 ", "undefined alias 'other'"),
        ("? [1]\n: 2", "space.yaml: line 1 ", "unhashable key"),
        ("seed: !!python/object:os.system {}", "space.yaml: line 1 ", "tag"),
        ("seed: 1\n---\nseed: 2", "space.yaml: line 2 ", "another document"),
        ("name: \x01", "space.yaml: ", "#x0001"),
        ("[" * 3000, "space.yaml: line 1 ", "32"),
    ],
)
def test_invalid_yaml_is_refused_with_the_line(space_file: Path, text: str, where: str, problem: str) -> None:
    message = refusal(space_file, text)
    assert message.startswith(where)
    assert problem in message


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("seed: 1\ntraining: {epochs: 3}\nseed: 2\n", "seed", 3),
        ("training:\n  lr: 0.1\n  lr: 0.2\n", "lr", 3),
        ("seed: {choice: [1], choice: [2]}", "choice", 1),
    ],
)
def test_duplicate_key_is_refused(space_file: Path, text: str, key: str, line: int) -> None:
    assert re.match(rf"space.yaml: line {line} .*'{key}'.*twice", refusal(space_file, text))


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        ("#" * 2**20 + "\n", "space.yaml: ", "at most 1048576 characters, got 1048577"),
        ("a: " + "{a: " * 100, "space.yaml: line 1 ", "32 deep"),
        ("\n".join(f"k{number}: 1" for number in range(6000)), "space.yaml: line 5000 ", "10000 keys"),
        ("a: &a [x]\nb: &b [*a, *a]", "space.yaml: line 2 ", "alias"),
        ("a: &a {b: *a}", "space.yaml: line 1 ", "alias"),
        ("name: " + "x" * 4097, "space.yaml: line 1 ", "4096 characters"),
        ('name: "a\\nb"', "space.yaml: line 1 ", r"control characters, got 'a\nb'"),
        ('"a\\0": 1', "space.yaml: line 1 ", r"control characters, got 'a\x00'"),
        ('name: "\\ud800"', "space.yaml: line 1 ", r"control characters, got '\ud"),
        ("seed: " + "9" * 5000, "space.yaml: line 1 ", "4096 characters"),
        ("seed: 0x" + "f" * 17, "space.yaml: line 1 ", "64 bits"),
        ("seed: " + ":".join(["59"] * 400) + ".5", "space.yaml: ", "got '59:59:59"),
        ("training: {lr: 1.0e+300}", "space.yaml: line 1 ", "1e-100 to 1e+100"),
        ("training: {lr: 1.0e-300}", "space.yaml: line 1 ", "1e-100 to 1e+100"),
        ("training: {lr: 1e400}", "space.yaml: line 1 ", "1e-100 to 1e+100"),
        ("seed: !!int x", "space.yaml: ", "'x'"),
        ("seed: !!int ''", "space.yaml: ", "not valid YAML"),
        ("seed: !!bool x", "space.yaml: ", "'x'"),
        ("seed: !!set {1}", "space.yaml: line 1 ", "tag"),
        ("seed: !!timestamp x", "space.yaml: line 1 ", "tag"),
        ("seed: !!binary x", "space.yaml: line 1 ", "tag"),
        ("data: {root: ~nobody-here/images}", "root: ", "got '~nobody-here/images'"),
    ],
)
def test_data_beyond_the_bounds_is_refused_quickly(space_file: Path, text: str, where: str, problem: str) -> None:
    start = time.monotonic()
    message = refusal(space_file, text)
    assert message.startswith(where)
    assert problem in message
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        (lambda size: f"[{', '.join(['1'] * (size - 1))}]", MAX_NODES),
        (lambda size: f"{'[' * (size - 1)}1{']' * (size - 1)}", MAX_DEPTH),
        (lambda size: "x" * size, MAX_SCALAR_CHARS),
        (lambda size: "#" * size, MAX_CHARS),
    ],
)
def test_bounds_are_inclusive(text: Callable[[int], str], bound: int) -> None:
    read_yaml(text(bound), "space.yaml")
    with pytest.raises(SpaceError, match=f"^space.yaml: .*{bound}"):
        read_yaml(text(bound + 1), "space.yaml")


def test_billion_laughs_are_refused(space_file: Path) -> None:
    layers = "".join(f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]\n" for number in range(1, 12))
    assert "alias" in refusal(space_file, f"a0: &a0 [ha]\n{layers}")


@pytest.mark.parametrize(
    "text",
    ["[" * 5000, "&a [*a]", '"a\\nb"', "!!python/object/apply:os.system [id]", "0x" + "f" * 99, "1\n", "x" * 2**20],
)
def test_override_is_refused_like_a_file(space_file: Path, text: str) -> None:
    assert refusal(space_file, "", f"name={text}").startswith(("--set name=", "--set 'name': "))


def test_date_is_read_as_text(space_file: Path) -> None:
    assert loaded(space_file, "name: 2026-11-21").resolve().name == "2026-11-21"


def test_unreadable_file_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path, reason in (
        (tmp_path / "absent.yaml", "No such file"),
        (tmp_path, "directory"),
        (tmp_path / "binary.yaml", "codec can't decode"),
    ):
        with pytest.raises(SpaceError, match=f"^{re.escape(str(path))}: .*{reason}.*;.*graftpop spaces.*$"):
            load_space(path)


@pytest.mark.parametrize(
    ("text", "key", "parts"),
    [
        ("trainin: {epochs: 3}", "trainin", ["unknown key 'trainin'", TOP_LEVEL, "did you mean 'training'?"]),
        (
            "training: {epoch: 3}",
            "training.epoch",
            [
                "unknown key 'epoch'",
                "epochs, total_epochs, batch_size, accumulate, lr, optimizer, momentum, weight_decay, "
                "decay_norm_and_bias, clip_grad_norm, schedule, warmup_epochs, decay_epochs, decay_rate, "
                "min_lr, patience, keep, precision",
                "did you mean 'epochs'?",
            ],
        ),
        (
            "mutual: {exchnge: logits}",
            "mutual.exchnge",
            ["unknown key 'exchnge'", "exchange, temperature, weight", "did you mean 'exchange'?"],
        ),
        (
            "training.epochs: 3",
            "training.epochs",
            ["unknown key 'training.epochs'", TOP_LEVEL, "did you mean 'training'?"],
        ),
        (
            "distillation: {teachers: [{model: resnet8, epochs: 0}]}",
            "distillation.teachers[0].epochs",
            ["equal to 1", "got 0"],
        ),
        (
            "distillation: {teachers: [{}, {modl: resnet8}]}",
            "distillation.teachers[1].modl",
            ["unknown key 'modl'", "model, args, epochs, checkpoint, pretrained", "did you mean 'model'?"],
        ),
        (
            "distillation: {teachers: [{model: {choice: [resnet8, resnet20]}}]}",
            "distillation.teachers[0].model",
            ["cannot be searched", "got {'choice': ['resnet8', 'resnet20']}", "list"],
        ),
        ("distillation: {teachers: []}", "distillation.teachers", ["1 or more", "got []"]),
        ("distillation: {}", "distillation.teachers", ["must be given"]),
        ("diagnostics: {thresholds: [0.1, 0]}", "diagnostics.thresholds[1]", ["greater than 0", "got 0"]),
        ("graft: {choice: [null, {A: 7}]}", "graft.A", ["equal to 1", "got 7 among the searched"]),
        ("graft: {alpha: {unifrm: [0, 1]}}", "graft.alpha", ["'unifrm'", "did you mean 'uniform'?"]),
        ("3: {}", "3", ["unknown key '3'", "name, "]),
        (
            "training: {lr: {choises: [0.1]}}",
            "training.lr",
            ["'choises'", "choice, uniform, loguniform, quniform, randint, grid", "did you mean 'choice'?"],
        ),
        ("training: {lr: '1e-4'}", "training.lr", ["number", "got '1e-4'", "write 0.0001"]),
        (
            "training: {lr: {loguniform: ['1e-4', '1e-1']}}",
            "training.lr",
            ["two numbers [low, high]", "got ['1e-4', '1e-1']", "write 0.0001"],
        ),
        ("training: {lr: {choice: []}}", "training.lr", ["choice", "got []"]),
        ("training: {lr: [0.1, 0.2]}", "training.lr", ["number", "got [0.1, 0.2]"]),
    ],
)
def test_mistake_names_file_key_value_and_closest_choice(
    space_file: Path, text: str, key: str, parts: list[str]
) -> None:
    message = refusal(space_file, text)
    assert message.startswith(f"space.yaml: {key}: ")
    assert [part for part in parts if part not in message] == [], message


def test_relative_data_folder_becomes_absolute(space_file: Path) -> None:
    space = loaded(space_file, "data: {name: folder, root: images/mine}")
    assert space.resolve().data.root == str(Path.cwd() / "images/mine")
    assert loaded(space_file, "data: {name: folder, root: ~/mine}").resolve().data.root == str(Path.home() / "mine")


def test_relative_paths_become_absolute_also_in_domains(space_file: Path) -> None:
    space = loaded(
        space_file,
        "data: {name: folder, root: {choice: [one, /two]}}\ndiagnostics: {density_of: run/best}\n"
        "distillation: {teachers: [{checkpoint: best}]}",
    )
    here = Path.cwd()
    assert space.domains["data.root"].values == (str(here / "one"), "/two")
    settings = space.resolve()
    assert settings.diagnostics.density_of == str(here / "run/best")
    assert settings.distillation is not None
    assert settings.distillation.teachers[0].checkpoint == str(here / "best")


def test_relative_paths_of_first_values_become_absolute(space_file: Path) -> None:
    space = loaded(
        space_file,
        "data: {name: folder, root: {choice: [one, two]}}\n"
        "model: {args: {root: {choice: [here, there]}}}\n"
        "tune: {first: [{data.root: two, model.args.root: there}]}",
    )
    assert space.first == [{"data.root": str(Path.cwd() / "two"), "model.args.root": "there"}]


def test_checkpoint_to_start_from_becomes_absolute_but_no_argument_of_the_network(space_file: Path) -> None:
    model = (
        loaded(space_file, "model: {checkpoint: run/best, args: {root: here, checkpoint: {choice: [a, b]}}}")
        .resolve()
        .model
    )
    assert model.checkpoint == str(Path.cwd() / "run/best")
    assert model.args == {"root": "here", "checkpoint": "a"}


# --set


def test_override_sets_and_searches_one_argument_of_the_network(space_file: Path) -> None:
    space = loaded(
        space_file, "model: {args: {img_size: 8}}", "model.args.drop_rate=0.1", "model.args.depth={randint: [1, 3]}"
    )
    assert space.domains == {"model.args.depth": Domain("randint", (1, 3))}
    assert space.resolve({"model.args.depth": 2}).model.args == {"img_size": 8, "drop_rate": 0.1, "depth": 2}
    assert space_of_yaml(space) == space
    assert refusal(space_file, "", "model.arg.depth=1").startswith("--set model.arg.depth=1: ")
    message = refusal(space_file, "", "model.args.drop={unifrom: [0, 1]}")
    assert "model.args.drop: " in message
    assert "did you mean 'uniform'" in message


def test_later_overrides_win(space_file: Path) -> None:
    text = "training: {epochs: 3, lr: 0.5}\npopulation: {num_peers: {choice: [2, 3]}}"
    space = loaded(space_file, text, "training.epochs=4", "training.epochs=5", "population.num_peers=6")
    assert (space.resolve().training.epochs, space.resolve().training.lr) == (5, 0.5)
    assert space.resolve().population.num_peers == 6
    assert not space.domains


def test_override_may_have_spaces_around_the_key(space_file: Path) -> None:
    assert loaded(space_file, "", " training.epochs = 5").resolve().training.epochs == 5


def test_override_can_set_a_domain_or_a_section(space_file: Path) -> None:
    space = loaded(
        space_file,
        "training: {lr: 0.5}",
        "population.num_peers={choice: [2, 3]}",
        "training={epochs: 3}",
        "graft.alpha=0.25",
    )
    assert space.domains == {"population.num_peers": Domain("choice", (2, 3))}
    assert (space.resolve().training.epochs, space.resolve().training.lr) == (3, 0.1)
    graft = space.resolve().graft
    assert graft is not None
    assert graft.alpha == 0.25


def test_override_of_a_key_replaces_a_null_section(space_file: Path) -> None:
    graft = loaded(space_file, "graft: null", "graft.alpha=0.25").resolve().graft
    assert graft is not None
    assert graft.alpha == 0.25


def test_override_of_a_key_of_the_task_keeps_a_task_given_by_its_name(space_file: Path) -> None:
    task = loaded(space_file, "task: recognition", "task.distance=cosine").resolve().task
    assert (task.name, task.distance) == ("recognition", "cosine")


def test_override_with_null_removes_the_section_and_its_domains(space_file: Path) -> None:
    space = loaded(space_file, "graft: {A: {uniform: [0.0, 1.0]}}", "graft=null", "population.num_peers=1")
    assert space.resolve().graft is None
    assert not space.domains


@pytest.mark.parametrize(
    ("section", "override"), [("graft", "graft.A=0.2"), ("training.optimizer", "training.optimizer.betas=[0.8, 0.9]")]
)
def test_override_of_a_key_in_a_searched_section_is_refused(space_file: Path, section: str, override: str) -> None:
    text = "graft: {choice: [null, {A: 0.3}]}\ntraining: {optimizer: {choice: [{name: adam}, {name: adamw}]}}"
    message = refusal(space_file, text, override)
    assert message.startswith(f"--set {override}: {section} ")
    assert "'choice'" in message
    graft = loaded(space_file, text, "graft={A: 0.2}").resolve().graft
    assert graft is not None
    assert graft.A == 0.2


def test_override_replaces_an_invalid_value_of_the_file(space_file: Path) -> None:
    assert loaded(space_file, "training: {epochs: 0}", "training.epochs=5").resolve().training.epochs == 5


@pytest.mark.parametrize(
    ("override", "key", "parts"),
    [
        ("training.epochs", "", ["KEY=VALUE"]),
        ("=3", "", ["KEY=VALUE"]),
        ("training.epoch=6", "", ["unknown key 'training.epoch'", "did you mean 'training.epochs'?"]),
        ("epochs=6", "", ["unknown key 'epochs'", "did you mean 'training.epochs'?"]),
        ("trainin.epochs=6", "", ["unknown key 'trainin.epochs'", "did you mean 'training.epochs'?"]),
        ("elsewhere=6", "", ["unknown key 'elsewhere'", "section.key"]),
        ("graft.A.uniform=[0, 1]", "", ["unknown key 'graft.A.uniform'", "section.key"]),
        ("training.epochs=abc", "training.epochs: ", ["integer", "got 'abc'"]),
        ("training.lr='1e-4'", "training.lr: ", ["number", "got '1e-4'", "write 0.0001"]),
        ("training.epochs={choice: [1, 2}", "line 1 ", ["'}'"]),
        ("training.epochs={choice: []}", "training.epochs: ", ["choice", "got []"]),
        ("training={epochs: 3, lr: x}", "training.lr: ", ["number", "got 'x'"]),
        ("model=resnet8", "model: ", ["section", "got 'resnet8'"]),
        ("population.num_peers=1", "population.num_peers: ", ["at least 2", "got 1"]),
        ("graft.level=filters", "graft.level: ", ["'layer' or 'filter'", "got 'filters'", "did you mean 'filter'?"]),
        ("seeds=[0, 0]", "seeds: ", ["distinct", "got [0, 0]"]),
        ("baseline=a", "baseline: ", ["got 'a' and no variants"]),
        ("baselin=a", "", ["unknown key 'baselin'", "did you mean 'baseline'?"]),
    ],
)
def test_mistake_in_an_override_is_reported_with_the_override(
    space_file: Path, override: str, key: str, parts: list[str]
) -> None:
    message = refusal(space_file, "graft: {A: {uniform: [0.0, 1.0]}}", override)
    assert message.startswith(f"--set {override}: {key}")
    assert [part for part in parts if part not in message] == [], message


def test_conflicting_key_of_the_file_names_the_file(space_file: Path) -> None:
    message = refusal(space_file, "graft: {A: {uniform: [0.0, 1.0]}}", "graft.alpha=0.5")
    assert message.startswith("space.yaml: graft.A: ")
    assert "graft.alpha: adaptive" in message


# properties


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """Return valid spaces of every search and scheduler, with keys absent, fixed or searched."""
    sampler = draw(st.sampled_from(["tpe", "gp", "qmc", "random", "grid"]))
    scheduler = draw(st.sampled_from(["none", "asha", "pbt"] if sampler == "random" else ["none", "asha"]))
    tree: dict[str, Any] = {"tune": {"sampler": sampler, "scheduler": scheduler}}
    if sampler != "grid" and draw(st.booleans()):
        tree["tune"]["num_samples"] = draw(st.integers(1, 1000))

    def put_some(key: str, value: st.SearchStrategy[Any], *, ranges: bool = False, whole: bool = False) -> None:
        """Leave a key out, fix it, or search it if it is searchable."""
        searchable = key.split(".")[0] not in ("name", "data", "tune", "resources") and (
            scheduler != "pbt" or key in UNDER_PBT
        )
        how = draw(st.sampled_from(["absent", "fixed", "searched"] if searchable else ["absent", "fixed"]))
        if how == "fixed":
            put(tree, key, draw(value))
        elif how == "searched":
            kinds = ["choice"] + (["grid"] if sampler == "grid" else ["randint"] * whole)
            kinds += ["uniform", "loguniform"] * (ranges and sampler != "grid")
            kind = draw(st.sampled_from(kinds))
            size = (2, 2) if kind in ("uniform", "loguniform", "randint") else (1, 4)
            values = draw(st.lists(value, min_size=size[0], max_size=size[1], unique=True))
            put(tree, key, {kind: sorted(values) if size == (2, 2) else values})

    def between(low: float, high: float) -> st.SearchStrategy[float]:
        return st.floats(low, high) | st.integers(int(low) + 1, int(high))

    put_some("name", st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True))
    put_some("seed", st.integers(0, 2**63 - 1), whole=True)
    put_some("data.root", st.text(max_size=20) | st.none())
    put_some("data.val_fraction", st.floats(0.01, 0.99))
    put_some("data.flip", st.booleans() | st.just("auto"))
    put_some("model.name", st.text(max_size=20))
    put_some("training.lr", between(1e-9, 100), ranges=True)
    put_some("training.epochs", st.integers(5, 500), whole=True)
    put_some("training.schedule", st.sampled_from(["step", "cosine", "constant"]))
    put_some("population.epochs_per_round", st.integers(1, 5), whole=True)
    put_some("population.num_peers", st.integers(2, 16), whole=True)
    if draw(st.booleans()):
        tree["graft"] = {}
        put_some("graft.alpha", between(0, 1) | st.just("adaptive"))
        alpha = tree["graft"].get("alpha", "adaptive")
        if alpha == "adaptive" or (isinstance(alpha, dict) and "adaptive" in next(iter(alpha.values()))):
            put_some("graft.A", between(1e-9, 1), ranges=True)
            put_some("graft.c", between(1e-9, 1e6), ranges=True)
            put_some("graft.num_bins", st.integers(2, 4096), whole=True)
    put_some("resources.cpus_per_peer", between(0.01, 64) | st.just("auto"))
    return tree


@given(trees(), st.integers(0, 2**32))
def test_space_written_as_yaml_reads_back_equal(tree: dict[str, Any], seed: int) -> None:
    assume(tree["tune"]["scheduler"] != "pbt" or any(has_domain(tree, key) for key in UNDER_PBT))
    space = parse_space(tree)
    again = parse_space(yaml.safe_load(space.to_yaml()))
    assert again == space
    rng = random.Random(seed)
    for sample in ({}, space.sample(rng), space.sample(rng)):
        assert again.resolve(sample) == space.resolve(sample)
    assert again.to_yaml() == space.to_yaml()


def has_domain(tree: dict[str, Any], key: str) -> bool:
    section, name = key.split(".")
    return isinstance(tree.get(section, {}).get(name), dict)


@given(
    st.sampled_from(["", *SECTIONS]),
    st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12) | st.integers() | st.none(),
    st.integers() | st.none() | st.text(max_size=5) | st.just({}) | st.just({"a": 1, "b": 2}),
)
def test_unknown_key_is_refused_in_every_section(section: str, name: Any, value: Any) -> None:
    names = {
        key.split(".")[0] if not section else key.removeprefix(f"{section}.")
        for key in known_keys(Settings)
        if key.startswith(f"{section}." if section else "")
    }
    assume(name not in names)
    with pytest.raises(
        SpaceError,
        match=r"unknown key '.*'; (the section has none|choose from (name|policy|epochs|num_peers|source|rate|teachers|"
        r"exchange|S1|preset|share|lr|start|decay|thresholds|metric|cpus))",
    ):
        parse_space({section: {name: value}} if section else {name: value})


@pytest.mark.parametrize("key", [key for key in known_keys(Settings) if len(key.rpartition(".")[2]) > 2])
def test_misspelled_key_is_refused_with_the_correct_key(key: str) -> None:
    section, _, name = key.rpartition(".")
    for place in range(1, len(name)):
        wrong = name[:place] + name[place + 1 :]
        with pytest.raises(SpaceError, match=f"unknown key '{wrong}'; .*; did you mean '{name}'"):
            parse_space({section: {wrong: 1}} if section else {wrong: 1})


def test_resolve_changes_neither_the_space_nor_the_parsed_data() -> None:
    tree = {"population": {"num_peers": {"choice": [2, 3]}}, "graft": {"A": {"uniform": [0.0, 1.0]}}}
    before = repr(tree)
    space = parse_space(tree)
    written = space.to_yaml()
    settings = space.resolve({"population.num_peers": 3, "graft.A": 0.25})
    assert settings.graft is not None
    assert (settings.population.num_peers, settings.graft.A) == (3, 0.25)
    assert repr(tree) == before
    assert space.to_yaml() == written


def test_whole_section_is_searchable(space_file: Path) -> None:
    space = loaded(space_file, "graft: {choice: [null, {alpha: 0.5}]}\ntune: {sampler: random}")
    assert space.resolve({"graft": None}).graft is None
    graft = space.resolve({"graft": {"alpha": 0.5}}).graft
    assert graft is not None
    assert graft.alpha == 0.5
    assert parse_space(yaml.safe_load(space.to_yaml())) == space


# spaces of the project


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.name)
def test_samples_of_every_space_of_the_project_are_valid(path: Path) -> None:
    space = load_space(path)
    rng = random.Random(0)
    for _ in range(20):
        sample = space.sample(rng)
        assert {key for key in space.domains if space.is_active(key, sample)} == sample.keys()
        find_model(space.resolve(sample).model.name)
    assert parse_space(yaml.safe_load(space.to_yaml())) == space


def test_too_many_pairs_of_searched_values_are_refused() -> None:
    many = ", ".join(f"{0.0001 * number:.4f}" for number in range(1, 600))
    text = f"graft: {{A: {{choice: [{many}]}}, c: {{choice: [{many}]}}}}"
    with pytest.raises(SpaceError, match=r"^space.yaml: .* 100000 pairs"):
        parse_space(yaml.safe_load(text), "space.yaml")


def test_limit_of_searched_pairs_is_inclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"seed": {"choice": [1, 2, 3]}, "training": {"lr": {"choice": [0.1, 0.2]}}}
    num_samples = len(list(boundary_samples(parse_space(tree).domains)))
    monkeypatch.setattr("graftpop.space.parsing.MAX_BOUNDARY_SAMPLES", num_samples)
    assert parse_space(tree).domains
    monkeypatch.setattr("graftpop.space.parsing.MAX_BOUNDARY_SAMPLES", num_samples - 1)
    with pytest.raises(SpaceError, match=rf"^space: .* {num_samples - 1} pairs"):
        parse_space(tree)
