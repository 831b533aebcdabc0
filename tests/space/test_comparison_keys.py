"""Comparisons: variants, seeds, baseline, accounting and published numbers."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from space_makers import assert_refused, refusal

from graftpop.errors import SpaceError
from graftpop.settings import Settings
from graftpop.space import Domain, Space, load_space, parse_space

TWO = "variants: {plain: {}, other: %s}\n"
OTHER = "variants.other"
PUBLISHED = "published: {source: Table 1, scores: [%s]}"


def space_of(text: str) -> Space:
    return parse_space(yaml.safe_load(text), "space.yaml")


# variants


def test_variant_overrides_the_common_sections_key_by_key() -> None:
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


def test_list_in_a_variant_replaces_the_common_list() -> None:
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


def test_sampled_values_override_the_variant() -> None:
    space = space_of("graft: {A: {grid: [0.1, 0.9]}}\nseeds: [3, 5]\n" + TWO % "{graft: {c: 7.0}}")
    settings = space.resolve({"variant": "other", "seed": 5, "graft.A": 0.9})
    assert settings.graft is not None
    assert (settings.seed, settings.graft.A, settings.graft.c) == (5, 0.9, 7.0)


def test_resolve_changes_no_variant() -> None:
    space = space_of("graft: {A: {grid: [0.1, 0.9]}}\n" + TWO % "{swa: {start: 0.5}, graft: {c: 7.0}}")
    before = space.to_yaml()
    for name in ("other", "plain"):
        space.resolve({"variant": name, "graft.A": 0.9})
    assert space.to_yaml() == before


@pytest.mark.parametrize(
    ("variants", "key", "parts"),
    [
        ("{}", "variants", ["map", "got {}"]),
        ("[plain]", "variants", ["map", "got ['plain']"]),
        ("{on: {}}", "variants", ["names", "got true"]),
        ("{a b: {}}", "variants", ["names", "got 'a b'"]),
        ("{plain: 0}", "variants.plain", ["map", "got 0"]),
        (
            "{plain: {grafts: {}}}",
            "variants.plain.grafts",
            [
                "'grafts'",
                ", ".join(name for name in Settings.model_fields if name not in ("name", "seed", "tune")),
                "did you mean 'graft'?",
            ],
        ),
        *((f"{{plain: {{{key}: 1}}}}", f"variants.plain.{key}", ["whole study"]) for key in ("tune", "seed", "name")),
        (
            "{plain: {graft: {A: {grid: [0.1, 0.2]}}}}",
            "variants.plain.graft.A",
            ["fixed values", "got {'grid': [0.1, 0.2]}"],
        ),
        (
            "{plain: {model: {choice: [{name: resnet8}]}}}",
            "variants.plain.model",
            ["fixed values", "got {'choice': [{'name': 'resnet8'}]}"],
        ),
    ],
)
def test_malformed_variants_are_refused(variants: str, key: str, parts: list[str]) -> None:
    assert_refused(f"variants: {variants}", key, *parts)


# messages


@pytest.mark.parametrize(
    ("sections", "key", "parts"),
    [
        ("{repr: {S1: 0}}", "repr.S1", ["equal to 1", "got 0"]),
        ("{pruning: {rate: 1.0}}", "pruning.rate", ["less than 1", "got 1.0"]),
        ("{swa: {lr: '1e-3'}}", "swa.lr", ["number", "got '1e-3'", "write 0.001"]),
        ("{repr: {SS: 1}}", "repr.SS", ["'SS'", "S1, S2, N, rate, criterion, skip_first"]),
        ("{training: null}", "training", ["section", "got null"]),
        ("{distillation: {}}", "distillation.teachers", ["must be given"]),
        ("{distillation: {teachers: [{model: resnet8, epochs: 0}]}}", "distillation.teachers[0].epochs", ["got 0"]),
        (
            "{distillation: {teachers: [{model: resnet8}]}}",
            "distillation.teachers[0]",
            ["epochs, checkpoint, pretrained: true", "got none"],
        ),
        ("{repr: {N: 9}}", "repr", ["9 * (20 + 10) = 270", "got 200 epochs"]),
        (
            "{repr: {criterion: l3}}",
            "repr.criterion",
            ["'l3'", "l1, l2, entropy, bn_scale, bn_activation, orthogonality, geometric_median, passive, random, "],
        ),
        ("{training: {total_epochs: 5}}", "training.total_epochs", ["population.num_peers (2)", "got 5", "4 or 6"]),
    ],
)
def test_mistake_in_a_variant_is_reported_with_its_path(sections: str, key: str, parts: list[str]) -> None:
    assert_refused(TWO % sections, f"{OTHER}.{key}", *parts)


def test_mistake_in_the_common_sections_names_no_variant() -> None:
    assert_refused("graft: {A: 2}\n" + TWO % "{graft: {c: 7.0}}", "graft.A", "equal to 1", "got 2")


def test_common_key_conflicting_with_a_variant_names_both() -> None:
    text = "population: {epochs_per_round: 4}\n" + TWO % "{training: {epochs: 3}}"
    assert_refused(text, "population.epochs_per_round (in variant other)", "training.epochs (3)", "got 4")


def test_variant_with_total_epochs_must_unset_common_epochs() -> None:
    text = "training: {epochs: 12}\n" + TWO
    assert_refused(
        text % "{training: {total_epochs: 12}}", f"{OTHER}.training.total_epochs", "training.epochs", "got 12"
    )
    assert space_of(text % "{training: {epochs: null, total_epochs: 12}}").resolve({"variant": "other"}).num_epochs == 6


@pytest.mark.parametrize(
    ("common", "sections", "key", "searched", "got"),
    [
        ("graft: {A: {grid: [0.1, 0.9]}}", "{graft: {A: 0.2}}", "graft.A", "graft.A", "0.2"),
        ("graft: {A: {grid: [0.1, 0.9]}}", "{graft: null}", "graft", "graft.A", "null"),
        ("graft: {grid: [null, {}]}", "{graft: {A: 0.2}}", "graft.A", "graft", "0.2"),
        ("graft: {grid: [null, {}]}", "{graft: {}}", "graft", "graft", "{}"),
    ],
)
def test_variant_that_sets_a_searched_key_is_refused(
    common: str, sections: str, key: str, searched: str, got: str
) -> None:
    assert_refused(f"{common}\n" + TWO % sections, f"{OTHER}.{key}", f"{searched} is searched", f"got {got}")


@pytest.mark.parametrize(
    ("common", "sections"),
    [
        ("graft: {A: {grid: [0.1, 0.9]}}", "{graft: {}}"),
        ("graft: {A: {grid: [0.1, 0.9]}}", "{graft: {c: 7.0}}"),
        ("graft: {c: {grid: [1.0, 9.0]}}", "{graft: {compat: released_code}}"),
        ("graft: {c: {grid: [1.0, 9.0]}}", "{graft: {criterion: l1}}"),
        ("graft: {compat: {grid: [none, released_code]}}", "{graft: {c: 7.0}}"),
    ],
)
def test_variant_may_set_other_keys_of_a_searched_section(common: str, sections: str) -> None:
    assert space_of(f"{common}\n" + TWO % sections).num_trials() == 4


def test_searched_key_without_effect_in_one_variant_is_refused() -> None:
    text = "graft: {A: {grid: [0.1, 0.9]}}\n" + TWO % "{graft: {alpha: 0.5}}"
    assert_refused(text, "graft.A (in variant other)", "no effect", "got {grid: [0.1, 0.9]}", "graft.alpha: adaptive")


def test_searched_conflicts_in_the_last_variant_are_found() -> None:
    text = (
        "training: {epochs: {grid: [8, 3]}}\npopulation: {num_peers: {grid: [2, 4]}}\n"
        "variants: {one: {}, two: {population: {epochs_per_round: 3}}, three: {population: "
        "{epochs_per_round: %d}}}"
    )
    assert space_of(text % 3).num_trials() == 12
    assert_refused(text % 4, "variants.three.population.epochs_per_round", "training.epochs (3)", "got 4")
    text = "training: {total_epochs: {grid: [12, 24]}}\npopulation: {num_peers: {grid: [2, 4]}}\n" + TWO
    assert_refused(text % "{repr: {S1: 1, S2: 1, N: 2}}", "variants.other.repr", "got 3 epochs")


# seeds and the search


def test_seeds_become_a_grid_of_seed() -> None:
    space = space_of("seeds: [4, 0, 9]")
    assert space.domains == {"seed": Domain("grid", (4, 0, 9))}
    assert space.resolve().tune.sampler == "grid"
    assert [space.resolve({"seed": seed}).seed for seed in (4, 0, 9)] == [4, 0, 9]
    assert space == space_of("seed: {grid: [4, 0, 9]}\ntune: {sampler: grid}")


@pytest.mark.parametrize(
    ("seeds", "key", "parts"),
    [
        ("3", "seeds", ["list", "got 3"]),
        ("[]", "seeds", ["list of 1 or more", "got []"]),
        ("[0, 0]", "seeds", ["distinct whole numbers", "got [0, 0]"]),
        ("[0, -1]", "seeds[1]", ["equal to 0", "got -1"]),
        ("[0.5]", "seeds[0]", ["integer", "got 0.5"]),
        ("['1']", "seeds[0]", ["integer", "got '1'", "write 1"]),
        ("[true]", "seeds[0]", ["integer", "got true"]),
        ("{grid: [0, 1]}", "seeds", ["list", "got {'grid': [0, 1]}"]),
        ("[9223372036854775808]", "seeds[0]", ["less than 9223372036854775808", "got 9223372036854775808"]),
    ],
)
def test_seeds_must_be_distinct_whole_numbers(seeds: str, key: str, parts: list[str]) -> None:
    assert_refused(f"seeds: {seeds}", key, *parts)


def test_seeds_exclude_the_seed() -> None:
    assert_refused("seeds: [0, 1]\nseed: 2", "seeds", "excludes seed", "got [0, 1]", "seed 2")


@pytest.mark.parametrize("study", ["seeds: [0, 1]\n", TWO % "{}"])
def test_comparison_runs_every_trial_to_its_end(study: str) -> None:
    assert_refused(f"{study}tune: {{sampler: tpe}}", "tune.sampler", "must be grid", "got tpe")
    for scheduler in ("asha", "pbt"):
        text = f"{study}tune: {{scheduler: {scheduler}}}"
        assert_refused(text, "tune.scheduler", "must be none", f"got {scheduler}")
    assert_refused(f"{study}tune: {{num_samples: 2}}", "tune.num_samples", "null", "got 2")
    text = f"{study}training: {{lr: {{uniform: [0.1, 0.2]}}}}"
    assert_refused(text, "training.lr", "got {uniform: [0.1, 0.2]}")
    assert refusal(text).endswith("choice, grid or randint")
    assert space_of(f"{study}tune: {{sampler: grid, scheduler: none, num_samples: null}}").num_trials() == 2


def test_most_rounds_is_the_maximum_over_all_variants() -> None:
    space = space_of(
        "training: {total_epochs: 24}\nvariants: {alone: {population: {num_peers: 1}}, two: {}, "
        "eight: {population: {num_peers: 8}}}"
    )
    assert space.most_rounds() == 24


# baseline and published


def test_baseline_defaults_to_the_first_variant() -> None:
    assert space_of(TWO % "{}").baseline == "plain"
    assert space_of(TWO % "{}" + "baseline: other").baseline == "other"
    assert space_of("{}").baseline is None
    assert_refused(TWO % "{}" + "baseline: othr", "baseline", "'othr'", "plain, other", "did you mean 'other'?")
    assert_refused("baseline: plain", "baseline", "got 'plain' and no variants")


def test_accounting_is_equal_images_unless_given(tmp_path: Path) -> None:
    assert space_of(TWO % "{}").equal == "images"
    assert space_of(TWO % "{}" + "compare: null").equal == "images"
    assert space_of(TWO % "{}" + "compare: {equal: epochs}").equal == "epochs"
    file = tmp_path / "space.yaml"
    file.write_text(TWO % "{}" + "compare: {equal: epochs}", encoding="utf-8")
    assert load_space(file, ["compare.equal=time"]).equal == "time"
    with pytest.raises(SpaceError, match=r"^--set compare.equals=time: unknown key .*did you mean 'compare.equal'\?$"):
        load_space(file, ["compare.equals=time"])


@pytest.mark.parametrize(
    ("compare", "key", "parts"),
    [
        ("time", "compare", ["a section", "got 'time'"]),
        ("{equal: flops}", "compare.equal", ["'images', 'epochs' or 'time'", "got 'flops'"]),
        ("{equal: null}", "compare.equal", ["'images', 'epochs' or 'time'", "got null"]),
        ("{equal: {grid: [images, time]}}", "compare.equal", ["got {'grid': ['images', 'time']}"]),
        ("{equals: time}", "compare.equals", ["'equals'", "did you mean 'equal'?"]),
    ],
)
def test_unknown_or_searched_accounting_is_refused(compare: str, key: str, parts: list[str]) -> None:
    assert_refused(TWO % "{}" + f"compare: {compare}", key, *parts)


def test_accounting_needs_variants_and_is_not_of_one_variant() -> None:
    assert_refused("compare: {equal: time}", "compare", "needs variants", "got {'equal': 'time'}")
    assert_refused(TWO % "{compare: {equal: time}}", f"{OTHER}.compare", "'compare'")


def test_published_rows_keep_variants_and_searched_keys() -> None:
    rows = "{variant: plain, model.name: resnet32, percent: 92.83, std: 0.42}, {variant: other, percent: 93}"
    space = space_of("model: {name: {grid: [resnet32, resnet56]}}\n" + TWO % "{}" + PUBLISHED % rows)
    assert space.published == {
        "source": "Table 1",
        "scores": [
            {"variant": "plain", "model.name": "resnet32", "percent": 92.83, "std": 0.42},
            {"variant": "other", "percent": 93},
        ],
    }


@pytest.mark.parametrize(
    ("row", "place", "parts"),
    [
        ("{variant: plan, percent: 90}", "[0].variant", ["'plan'", "plain, other", "did you mean 'plain'?"]),
        (
            "{variant: plain, percent: 90, model.name: resnet8}",
            "[0]",
            ["'model.name'", "variant, percent, std", "--set published=null"],
        ),
        ("{variant: plain, percent: 90, seed: 0}", "[0]", ["'seed'", "variant, percent, std", "--set published=null"]),
        ("{variant: plain, percent: 92.8 %}", "[0].percent", ["number", "got '92.8 %'"]),
        ("{variant: plain, percent: 101}", "[0].percent", ["equal to 100", "got 101"]),
        ("{variant: plain, percent: -0.1}", "[0].percent", ["equal to 0", "got -0.1"]),
        ("{variant: plain, percent: true}", "[0].percent", ["number", "got true"]),
        ("{variant: plain, percent: 90, std: -1}", "[0].std", ["equal to 0", "got -1"]),
        ("{variant: plain}", "[0].percent", ["must be given", "got nothing"]),
        ("{percent: 90}", "[0].variant", ["must be given", "got nothing"]),
        ("{variant: other, percent: 90}, 3", "[1]", ["a map", "got 3"]),
    ],
)
def test_malformed_published_row_is_refused(row: str, place: str, parts: list[str]) -> None:
    assert_refused("seeds: [0, 1]\n" + TWO % "{}" + PUBLISHED % row, f"published.scores{place}", *parts)


def test_published_percentages_include_0_and_100() -> None:
    space = space_of(TWO % "{}" + PUBLISHED % "{variant: plain, percent: 100, std: 0}, {variant: other, percent: 0}")
    assert space.published is not None
    assert [(row["percent"], row.get("std")) for row in space.published["scores"]] == [(100, 0), (0, None)]


@pytest.mark.parametrize(
    ("published", "key", "parts"),
    [
        ("3", "published", ["a map", "got 3"]),
        ("{source: a, scored: []}", "published.scored", ["'scored'", "source, scores", "did you mean 'scores'?"]),
        ("{source: a, scores: [], note: b}", "published.note", ["'note'", "source, scores"]),
        ("{source: 3, scores: []}", "published.source", ["string", "got 3"]),
        ("{source: ' ', scores: []}", "published.source", ["text", "got ' '"]),
        ("{source: '', scores: []}", "published.source", ["text", "got ''"]),
        ("{source: a, scores: {}}", "published.scores", ["list", "got {}"]),
        ("{source: {uniform: [0, 1]}, scores: []}", "published.source", ["string", "got {'uniform': [0, 1]}"]),
    ],
)
def test_published_numbers_need_a_source_and_rows(published: str, key: str, parts: list[str]) -> None:
    assert_refused(TWO % "{}" + f"published: {published}", key, *parts)


def test_published_numbers_need_variants() -> None:
    assert_refused("published: {}", "published", "needs variants", "got none")


# options and files


def test_relative_paths_of_published_scores_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(
        "data: {name: folder, root: {grid: [one, two]}}\nvariants: {a: {}}\n"
        "published: {source: a paper, scores: [{variant: a, data.root: two, percent: 90}]}"
    )
    space = load_space("space.yaml")
    assert space.published is not None
    assert space.published["scores"] == [{"variant": "a", "data.root": str(tmp_path / "two"), "percent": 90}]


def test_overrides_set_common_sections_seeds_and_baseline(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("seed: 7\nmodel: {name: resnet8}\n" + TWO % "{graft: {}}", encoding="utf-8")
    space = load_space(file, ["seeds=[0, 1]", "baseline=other", "training.epochs=3"])
    assert space.domains["seed"] == Domain("grid", (0, 1))
    assert space.baseline == "other"
    assert {space.resolve({"variant": name}).num_epochs for name in space.variants} == {3}
    assert load_space(file, ["seeds=[0, 1]", "seed=5"]).resolve({"variant": "other"}).seed == 5
    with pytest.raises(SpaceError, match=r"^--set baseline=a: baseline: .*'a'.* plain, other"):
        load_space(file, ["baseline=a"])
    with pytest.raises(SpaceError, match=r"^--set tune.scheduler=asha: tune.scheduler: .*got asha"):
        load_space(file, ["tune.scheduler=asha"])


def test_paths_in_variants_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """Return valid comparisons, some with seeds, a searched data set or published numbers."""
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
        tree["compare"] = {"equal": draw(st.sampled_from(["images", "epochs", "time"]))}
    if draw(st.booleans()):
        tree["data"] = {"name": {"grid": ["cifar10", "cifar100"]}}
        tree["published"] = {
            "source": "a paper: its table",
            "scores": [{"variant": name, "data.name": "cifar10", "percent": draw(st.floats(0, 100))} for name in names],
        }
    return tree


@given(comparisons(), st.integers(0, 2**32))
def test_comparison_written_as_yaml_reads_back_equal(tree: dict[str, Any], seed: int) -> None:
    space = parse_space(tree)
    again = parse_space(yaml.safe_load(space.to_yaml()))
    assert again == space
    assert again.to_yaml() == space.to_yaml()
    assert list(again.variants) == list(tree["variants"])
    assert again.baseline == tree.get("baseline", next(iter(tree["variants"])))
    assert again.equal == tree.get("compare", {"equal": "images"})["equal"]
    sample = space.sample(random.Random(seed))
    assert again.resolve(sample) == space.resolve(sample)


@given(comparisons())
def test_boundary_settings_cover_every_variant_seed_and_data_set(tree: dict[str, Any]) -> None:
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


def test_settings_of_sections_cover_every_variant() -> None:
    space = space_of(
        "data: {name: {grid: [digits, cifar10]}}\ngraft: {A: {grid: [0.1, 0.9]}}\n" + TWO % "{model: {name: resnet8}}"
    )
    found = [(settings.model.name, settings.data.name) for settings in space.settings_of("data")]
    assert sorted(found) == [
        ("resnet32", "cifar10"),
        ("resnet32", "digits"),
        ("resnet8", "cifar10"),
        ("resnet8", "digits"),
    ]


# overrides in a variant


def test_override_sets_a_key_of_a_variant(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("training: {epochs: 60}\npopulation: {num_peers: 1}\nvariants: {plain: {}, repr: {repr: {S1: 4}}}")
    space = load_space(file, ["variants.repr.repr.S2=3", "variants.plain.training.lr=0.2"])
    settings = {name: space.resolve({"variant": name}) for name in ("plain", "repr")}
    assert settings["repr"].repr is not None
    assert (settings["repr"].repr.S1, settings["repr"].repr.S2, settings["repr"].training.lr) == (4, 3, 0.1)
    assert (settings["plain"].repr, settings["plain"].training.lr) == (None, 0.2)
    with pytest.raises(SpaceError, match=r"^--set variants.rpr.repr.S2=3: variants: .*'rpr'.*did you mean 'repr'\?$"):
        load_space(file, ["variants.rpr.repr.S2=3"])
    with pytest.raises(SpaceError, match=r"^--set variants.repr.repr.S3=3: .*'repr.S3'.*did you mean"):
        load_space(file, ["variants.repr.repr.S3=3"])


def test_override_sets_a_key_of_a_variant_whose_name_has_dots(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("variants: {lr: {}, lr.0.1: {training: {lr: 0.1}}}")
    space = load_space(file, ["variants.lr.0.1.training.lr=0.2", "variants.lr.training.epochs=3"])
    assert space.variants == {"lr": {"training": {"epochs": 3}}, "lr.0.1": {"training": {"lr": 0.2}}}
    with pytest.raises(SpaceError, match=r"^--set variants.lr.0.1.training.lr=x: variants.lr.0.1.training.lr: .*'x'"):
        load_space(file, ["variants.lr.0.1.training.lr=x"])
