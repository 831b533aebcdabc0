"""Comparisons: variants over the common settings, seeds, the baseline, and what a paper has published."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from space_makers import refusal

from graftpop.errors import SpaceError
from graftpop.space import Domain, Space, load_space, parse_space

TWO = "variants: {plain: {}, other: %s}\n"
OTHER = "variants.other"
FIXED = "where it is fixed, take the rows out by --set published=null"
PUBLISHED = "published: {source: Table 1, accuracy: [%s]}"


def space_of(text: str) -> Space:
    return parse_space(yaml.safe_load(text), "space.yaml")


# what a variant is


def test_a_variant_goes_over_the_common_settings_key_by_key() -> None:
    space = space_of("""
        training: {epochs: 6, lr: 0.5}
        graft: {A: 0.2, c: 10.0}
        variants:
          plain:
          steep: {graft: {c: 100.0}}
          alone: {graft: null, population: {num_peers: 1}}
          long: {training: {epochs: null, total_epochs: 24}, swa: {}}
    """)
    plain, steep, alone, long = (space.resolve({"variant": name}) for name in ("plain", "steep", "alone", "long"))
    assert plain.graft is not None
    assert steep.graft is not None
    assert (plain.graft.A, plain.graft.c, steep.graft.A, steep.graft.c) == (0.2, 10.0, 0.2, 100.0)
    assert (alone.graft, alone.population.num_peers, plain.population.num_peers) == (None, 1, 2)
    assert (long.num_epochs, plain.num_epochs, long.training.lr) == (12, 6, 0.5)
    assert (long.swa is None, plain.swa is None) == (False, True)
    assert space.resolve() == plain


def test_a_list_in_a_variant_replaces_the_common_one() -> None:
    space = space_of(
        "distillation: {temperature: 4.0, teachers: [{model: resnet8, epochs: 1}, {checkpoint: best}]}\n"
        + TWO % "{distillation: {teachers: [{model: resnet20, epochs: 2}]}}"
    )
    plain, other = (space.resolve({"variant": name}).distillation for name in ("plain", "other"))
    assert plain is not None
    assert other is not None
    assert [teacher.model for teacher in plain.teachers] == ["resnet8", None]
    assert [teacher.model for teacher in other.teachers] == ["resnet20"]
    assert plain.temperature == other.temperature == 4.0


def test_what_is_sampled_goes_over_the_variant() -> None:
    space = space_of("graft: {A: {grid: [0.1, 0.9]}}\nseeds: [3, 5]\n" + TWO % "{graft: {c: 7.0}}")
    settings = space.resolve({"variant": "other", "seed": 5, "graft.A": 0.9})
    assert settings.graft is not None
    assert (settings.seed, settings.graft.A, settings.graft.c) == (5, 0.9, 7.0)


def test_settling_changes_no_variant() -> None:
    space = space_of("graft: {A: {grid: [0.1, 0.9]}}\n" + TWO % "{swa: {start: 0.5}, graft: {c: 7.0}}")
    before = space.to_yaml()
    for name in ("other", "plain"):
        space.resolve({"variant": name, "graft.A": 0.9})
    assert space.to_yaml() == before


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("{}", "variants: must be a map of one or more names to sections, got {}"),
        ("[plain]", "variants: must be a map of one or more names to sections, got ['plain']"),
        (
            "{on: {}}",
            "variants: names must be text of up to 64 letters, digits, '.', '_' and '-', beginning with a letter "
            "or digit, got true",
        ),
        (
            "{a b: {}}",
            "variants: names must be text of up to 64 letters, digits, '.', '_' and '-', beginning with a "
            "letter or digit, got 'a b'",
        ),
        ("{plain: 0}", "variants.plain: must be a map of sections, got 0"),
        (
            "{plain: {grafts: {}}}",
            "variants.plain.grafts: unknown section 'grafts'; choose from data, model, training, "
            "population, graft, distillation, mutual, repr, attenuation, swa, diagnostics, resources; "
            "did you mean 'graft'?",
        ),
        *(
            (
                f"{{plain: {{{key}: 1}}}}",
                f"variants.plain.{key}: belongs to the whole study, got it in one variant; set it outside of variants",
            )
            for key in ("tune", "seed", "name")
        ),
        (
            "{plain: {graft: {A: {grid: [0.1, 0.2]}}}}",
            "variants.plain.graft.A: a variant has fixed values, got {'grid': [0.1, 0.2]}; search the key outside of "
            "variants, or make a variant of each value",
        ),
        (
            "{plain: {model: {choice: [{name: resnet8}]}}}",
            "variants.plain.model: a variant has fixed values, got {'choice': [{'name': 'resnet8'}]}; search the key outside "
            "of variants, or make a variant of each value",
        ),
    ],
)
def test_what_is_no_variant_is_refused(variants: str, message: str) -> None:
    assert refusal(f"variants: {variants}") == message


# messages


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ("{repr: {S1: 0}}", "repr.S1: must be greater than or equal to 1, got 0"),
        ("{attenuation: {rate: 1.0}}", "attenuation.rate: must be less than 1, got 1.0"),
        ("{swa: {lr: 1e-3}}", "swa.lr: must be a valid number, got '1e-3'; '1e-3' is text in YAML, write 0.001"),
        ("{repr: {SS: 1}}", "repr.SS: unknown key 'SS'; choose from S1, S2, N, rate, criterion, skip_first"),
        ("{training: null}", "training: must be a section: a map of keys, got null"),
        ("{distillation: {}}", "distillation.teachers: must be given, got nothing"),
        (
            "{distillation: {teachers: [{model: resnet8, epochs: 0}]}}",
            "distillation.teachers[0].epochs: must be greater than or equal to 1, got 0",
        ),
        (
            "{distillation: {teachers: [{model: resnet8}]}}",
            "distillation.teachers[0]: needs exactly one of epochs, checkpoint, pretrained: true, got none",
        ),
        (
            "{repr: {N: 9}}",
            "repr: the cycles take N * (S1 + S2) = 9 * (20 + 10) = 270 epochs, and the last filters to "
            "come back need at least one more to train, got 200 epochs; shorten the cycles, or train longer",
        ),
        (
            "{repr: {criterion: l3}}",
            "repr.criterion: unknown name 'l3'; choose from l1, l2, entropy, bn_scale, "
            "bn_activation, orthogonality, geometric_median, random",
        ),
        (
            "{training: {total_epochs: 5}}",
            "training.total_epochs: must be a multiple of population.num_peers (2), got 5; choose 4 or 6",
        ),
    ],
)
def test_a_mistake_in_a_variant_is_told_by_its_place_there(sections: str, message: str) -> None:
    assert refusal(TWO % sections) == f"{OTHER}.{message}"


def test_a_mistake_in_the_common_part_names_no_variant() -> None:
    assert refusal("graft: {A: 2}\n" + TWO % "{graft: {c: 7.0}}") == ("graft.A: must be less than or equal to 1, got 2")


def test_a_common_key_that_does_not_fit_a_variant_is_told_with_the_variant() -> None:
    assert refusal("population: {epochs_per_round: 4}\n" + TWO % "{training: {epochs: 3}}") == (
        "population.epochs_per_round (in variant other): must be at most training.epochs (3), got 4"
    )


def test_epochs_of_the_common_part_are_unset_in_a_variant_that_gives_those_of_all_peers() -> None:
    text = "training: {epochs: 12}\n" + TWO
    assert refusal(text % "{training: {total_epochs: 12}}") == (
        f"{OTHER}.training.total_epochs: excludes training.epochs, got 12 beside 12; take one out, or set it to null"
    )
    assert space_of(text % "{training: {epochs: null, total_epochs: 12}}").resolve({"variant": "other"}).num_epochs == 6


@pytest.mark.parametrize(
    ("sections", "key", "got"), [("{graft: {A: 0.2}}", "graft.A", "0.2"), ("{graft: null}", "graft", "null")]
)
def test_a_variant_does_not_set_what_is_searched(sections: str, key: str, got: str) -> None:
    assert refusal("graft: {A: {grid: [0.1, 0.9]}}\n" + TWO % sections) == (
        f"{OTHER}.{key}: graft.A is searched, which goes over all variants, got {got} here; do not search it, or do "
        f"not set it here"
    )


def test_what_has_no_effect_in_one_variant_is_not_searched() -> None:
    assert refusal("graft: {A: {grid: [0.1, 0.9]}}\n" + TWO % "{graft: {alpha: 0.5}}") == (
        "graft.A (in variant other): has no effect where graft.alpha is a number, got {grid: [0.1, 0.9]}; set "
        "graft.alpha: adaptive, or do not search it"
    )


def test_two_searched_keys_that_do_not_fit_in_the_last_variant_alone_are_found() -> None:
    text = (
        "training: {epochs: {grid: [8, 3]}}\npopulation: {num_peers: {grid: [2, 4]}}\n"
        "variants: {one: {}, two: {population: {epochs_per_round: 3}}, three: {population: "
        "{epochs_per_round: %d}}}"
    )
    assert space_of(text % 3).num_trials() == 12
    assert refusal(text % 4) == (
        "variants.three.population.epochs_per_round: must be at most training.epochs (3), got 4"
    )
    text = "training: {total_epochs: {grid: [12, 24]}}\npopulation: {num_peers: {grid: [2, 4]}}\n" + TWO
    assert refusal(text % "{repr: {S1: 1, S2: 1, N: 2}}").startswith("variants.other.repr: the cycles take")


# seeds and the search


def test_seeds_are_a_grid_of_the_seed() -> None:
    space = space_of("seeds: [4, 0, 9]")
    assert space.domains == {"seed": Domain("grid", (4, 0, 9))}
    assert space.resolve().tune.search == "grid"
    assert [space.resolve({"seed": seed}).seed for seed in (4, 0, 9)] == [4, 0, 9]
    assert space == space_of("seed: {grid: [4, 0, 9]}\ntune: {search: grid}")


@pytest.mark.parametrize(
    "seeds", ["3", "[]", "[0, 0]", "[-1]", "[0.5]", "['1']", "[true]", "{grid: [0, 1]}", "[9223372036854775808]"]
)
def test_seeds_are_distinct_whole_numbers(seeds: str) -> None:
    assert refusal(f"seeds: {seeds}") == (
        f"seeds: must be a list of one or more distinct whole numbers, 0 or more, "
        f"got {yaml.safe_load(seeds)!r}; write seeds: [0, 1, 2]"
    )


def test_seeds_exclude_the_seed() -> None:
    assert refusal("seeds: [0, 1]\nseed: 2") == "seeds: excludes seed, got [0, 1] beside seed 2; take one out"


@pytest.mark.parametrize("study", ["seeds: [0, 1]\n", TWO % "{}"])
def test_a_comparison_runs_everything_to_its_end(study: str) -> None:
    assert refusal(f"{study}tune: {{search: optuna}}") == (
        "tune.search: variants and seeds run in all combinations, which is grid, got optuna; write grid, or leave "
        "it out"
    )
    assert refusal(f"{study}tune: {{scheduler: asha}}") == (
        "tune.scheduler: a trial that is stopped or changed compares with nothing, so with variants or seeds it is "
        "none, got asha; write none, or leave it out"
    )
    assert refusal(f"{study}tune: {{num_samples: 2}}") == (
        "tune.num_samples: search grid runs the whole product of the domains, got 2; leave it null"
    )
    assert refusal(f"{study}training: {{lr: {{uniform: [0.1, 0.2]}}}}") == (
        "training.lr: search grid runs every value, and there is no end to those of {uniform: [0.1, 0.2]}; choose "
        "choice, grid or randint"
    )
    assert space_of(f"{study}tune: {{search: grid, scheduler: none, num_samples: null}}").num_trials() == 2


def test_the_most_rounds_are_those_of_any_variant() -> None:
    space = space_of(
        "training: {total_epochs: 24}\nvariants: {alone: {population: {num_peers: 1}}, two: {}, "
        "eight: {population: {num_peers: 8}}}"
    )
    assert space.most_rounds() == 24


# baseline and published


def test_the_baseline_is_the_first_variant_unless_another_is_named() -> None:
    assert space_of(TWO % "{}").baseline == "plain"
    assert space_of(TWO % "{}" + "baseline: other").baseline == "other"
    assert space_of("{}").baseline is None
    assert refusal(TWO % "{}" + "baseline: othr") == (
        "baseline: unknown name 'othr'; choose from plain, other; did you mean 'other'?"
    )
    assert refusal("baseline: plain") == (
        "baseline: names one of the variants, got 'plain' and no variants; write variants, or take it out"
    )


def test_published_numbers_name_variants_and_searched_keys() -> None:
    rows = "{variant: plain, model.name: resnet32, percent: 92.83, std: 0.42}, {variant: other, percent: 93}"
    space = space_of("model: {name: {grid: [resnet32, resnet56]}}\n" + TWO % "{}" + PUBLISHED % rows)
    assert space.published == {
        "source": "Table 1",
        "accuracy": [
            {"variant": "plain", "model.name": "resnet32", "percent": 92.83, "std": 0.42},
            {"variant": "other", "percent": 93},
        ],
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "{variant: plan, percent: 90}",
            "[0].variant: unknown name 'plan'; choose from plain, other; did you mean 'plain'?",
        ),
        (
            "{variant: plain, percent: 90, model.name: resnet8}",
            "[0]: 'model.name' is not searched here; choose from variant, percent, std; " + FIXED,
        ),
        (
            "{variant: plain, percent: 90, seed: 0}",
            "[0]: 'seed' is not searched here; choose from variant, percent, std; " + FIXED,
        ),
        ("{variant: plain, percent: 92.8 %}", "[0].percent: must be a number of per cent in [0, 100], got '92.8 %'"),
        ("{variant: plain, percent: 101}", "[0].percent: must be a number of per cent in [0, 100], got 101"),
        ("{variant: plain, percent: 90, std: -1}", "[0].std: must be a number of per cent in [0, 100], got -1"),
        ("{variant: plain}", "[0]: must be a map with variant and percent, got {'variant': 'plain'}"),
        ("{percent: 90}", "[0]: must be a map with variant and percent, got {'percent': 90}"),
        ("{variant: other, percent: 90}, 3", "[1]: must be a map with variant and percent, got 3"),
    ],
)
def test_a_row_that_cannot_stand_beside_a_trial_is_refused(row: str, message: str) -> None:
    assert refusal("seeds: [0, 1]\n" + TWO % "{}" + PUBLISHED % row) == f"published.accuracy{message}"


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ("3", "published: must be a map of source and accuracy, got 3"),
        (
            "{source: a, accuracies: []}",
            "published: must be a map of source and accuracy, got ['source', 'accuracies']",
        ),
        ("{source: 3, accuracy: []}", "published.source: must be text that says where the numbers stand, got 3"),
        ("{source: a, accuracy: {}}", "published.accuracy: must be a list of rows, got {}"),
    ],
)
def test_published_numbers_have_a_source_and_rows(published: str, message: str) -> None:
    assert refusal(TWO % "{}" + f"published: {published}") == message


def test_published_numbers_need_variants() -> None:
    assert refusal("published: {}") == "published: stands beside variants, got none; write variants, or take it out"


# options and files


def test_options_set_the_common_part_the_seeds_and_the_baseline(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("seed: 7\nmodel: {name: resnet8}\n" + TWO % "{graft: {}}", encoding="utf-8")
    space = load_space(file, ["seeds=[0, 1]", "baseline=other", "training.epochs=3"])
    assert space.domains["seed"] == Domain("grid", (0, 1))
    assert space.baseline == "other"
    assert {space.resolve({"variant": name}).num_epochs for name in space.variants} == {3}
    assert load_space(file, ["seeds=[0, 1]", "seed=5"]).resolve({"variant": "other"}).seed == 5
    with pytest.raises(SpaceError, match=r"^--set baseline=a: baseline: unknown name 'a'; choose from plain, other$"):
        load_space(file, ["baseline=a"])
    with pytest.raises(SpaceError, match=r"^--set tune.scheduler=asha: tune.scheduler: a trial that is stopped"):
        load_space(file, ["tune.scheduler=asha"])


def test_paths_of_variants_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(
        "variants: {root: {data: {name: folder, root: mine}}, other: {distillation: {teachers: [{checkpoint: best}]}}}",
        encoding="utf-8",
    )
    space = load_space("space.yaml")
    assert space.resolve({"variant": "root"}).data.root == str(tmp_path / "mine")
    distillation = space.resolve({"variant": "other"}).distillation
    assert distillation is not None
    assert distillation.teachers[0].checkpoint == str(tmp_path / "best")


@st.composite
def comparisons(draw: st.DrawFn) -> dict[str, Any]:
    """Valid comparisons of any sections, with anything finite searched beside the variants."""
    sections: dict[str, st.SearchStrategy[dict[str, Any] | None]] = {
        "training": st.fixed_dictionaries({}, optional={"lr": st.floats(1e-9, 10), "epochs": st.integers(100, 300)}),
        "mutual": st.fixed_dictionaries({}, optional={"weight": st.floats(0, 10)}) | st.none(),
        "repr": st.fixed_dictionaries({}, optional={"rate": st.floats(0, 0.9)}) | st.none(),
        "diagnostics": st.fixed_dictionaries({"thresholds": st.lists(st.floats(1e-6, 9), max_size=3)}),
    }
    names = draw(
        st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True), min_size=1, max_size=4, unique=True)
    )
    tree: dict[str, Any] = draw(st.fixed_dictionaries({}, optional=sections))
    tree["variants"] = {name: draw(st.fixed_dictionaries({}, optional=sections) | st.none()) for name in names}
    if draw(st.booleans()):
        tree["seeds"] = draw(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3, unique=True))
    if draw(st.booleans()):
        tree["baseline"] = draw(st.sampled_from(names))
    if draw(st.booleans()):
        tree["data"] = {"name": {"grid": ["cifar10", "cifar100"]}}
        tree["published"] = {
            "source": "a paper: its table",
            "accuracy": [
                {"variant": name, "data.name": "cifar10", "percent": draw(st.floats(0, 100))} for name in names
            ],
        }
    return tree


@given(comparisons(), st.integers(0, 2**32))
def test_a_written_comparison_reads_back_as_the_same_space(tree: dict[str, Any], seed: int) -> None:
    space = parse_space(tree)
    again = parse_space(yaml.safe_load(space.to_yaml()))
    assert again == space
    assert again.to_yaml() == space.to_yaml()
    assert list(again.variants) == list(tree["variants"])
    assert again.baseline == tree.get("baseline", next(iter(tree["variants"])))
    sample = space.sample(random.Random(seed))
    assert again.resolve(sample) == space.resolve(sample)


@given(comparisons())
def test_corners_hold_every_variant_with_every_seed_and_data_set(tree: dict[str, Any]) -> None:
    space = parse_space(tree)
    seen = {
        (settings.seed, settings.data.name, settings.training.lr, settings.mutual)
        for settings in space.boundary_settings()
    }
    for name in space.variants:
        for seed in tree.get("seeds", [0]):
            for data in ("cifar10", "cifar100") if "data" in tree else ("cifar10",):
                sample = {"variant": name, "seed": seed} | ({"data.name": data} if "data" in tree else {})
                settings = space.resolve(sample)
                assert (seed, data, settings.training.lr, settings.mutual) in seen


# --set in a variant


def test_a_key_of_a_variant_can_be_set_anew(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("training: {epochs: 60}\npopulation: {num_peers: 1}\nvariants: {plain: {}, repr: {repr: {S1: 4}}}")
    space = load_space(file, ["variants.repr.repr.S2=3", "variants.plain.training.lr=0.2"])
    settled = {name: space.resolve({"variant": name}) for name in ("plain", "repr")}
    assert settled["repr"].repr is not None
    assert (settled["repr"].repr.S1, settled["repr"].repr.S2, settled["repr"].training.lr) == (4, 3, 0.1)
    assert (settled["plain"].repr, settled["plain"].training.lr) == (None, 0.2)
    with pytest.raises(
        SpaceError,
        match=r"--set variants.rpr.repr.S2=3: variants: unknown name 'rpr'; choose from "
        r"plain, repr; did you mean 'repr'\?",
    ):
        load_space(file, ["variants.rpr.repr.S2=3"])
    with pytest.raises(SpaceError, match=r"--set variants.repr.repr.S3=3: unknown key 'repr.S3'; .*did you mean"):
        load_space(file, ["variants.repr.repr.S3=3"])
