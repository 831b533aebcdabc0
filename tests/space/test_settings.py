"""The settings, key by key: accepted values, bounds, and messages for refused values."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from space_makers import METHODS, SECTIONS

from graftpop.errors import SpaceError
from graftpop.hooks.ranking import ALL_CRITERIA
from graftpop.ops.criteria import CRITERIA
from graftpop.settings import Settings, TeacherSettings, TrainingSettings
from graftpop.space import parse_space
from graftpop.space.keys import known_keys
from graftpop.space.validation_messages import format_value
from graftpop.space.yaml_tree import put

# by key: accepted values, including its bounds, and refused values with a part of the message
WHOLE = "integer, got"
NUMBER = "number, got"
AUTO_NUMBER = "number or 'auto', got"
CRITERION = "unknown name"
TEACHERS = [{"model": "resnet8", "epochs": 3}]
KEYS: dict[str, tuple[list[Any], dict[Any, str]]] = {
    "name": (
        ["a", "A.b_c-9", "9" * 64],
        {
            "": "letters, digits, '.', '_' and '-'",
            "-a": "letters, digits",
            "a b": "letters, digits",
            "a/b": "letters, digits",
            "a" * 65: "letters, digits",
            3: "string, got 3",
            None: "string, got",
        },
    ),
    "seed": (
        [0, 2**63 - 1],
        {
            -1: "greater than or equal to 0, got -1",
            2**63: "less than 9223372036854775808, got",
            0.5: WHOLE,
            "3": "write 3",
            True: f"{WHOLE} true",
        },
    ),
    "data.name": (["digits"], {1: "string, got 1"}),
    "data.root": ([None, "some/folder"], {3: "string, got 3"}),
    "data.val_fraction": (
        [1e-9, 0.999],
        {0: "greater than 0, got 0", 1: "less than 1, got 1", math.nan: "got nan", "0.1": "write 0.1"},
    ),
    "data.max_train_images": ([None, 1, 10**9], {0: "greater than or equal to 1, got 0", 2.0: WHOLE}),
    "data.label": ([None, "fine_label"], {0: "string, got 0"}),
    "data.image_size": (
        [None, 1, 4096],
        {0: "greater than or equal to 1, got 0", 4097: "less than or equal to 4096, got 4097", 8.0: WHOLE},
    ),
    "data.on_damage": (["refuse", "skip"], {"ignore": "'refuse' or 'skip', got 'ignore'"}),
    "data.label_noise": ([0, 0.4], {1: "less than 1, got 1", -0.1: "greater than or equal to 0, got -0.1"}),
    "data.crop_padding": (
        ["auto", 0, 4],
        {
            -1: "greater than or equal to 0 or 'auto', got -1",
            "atuo": "integer or 'auto', got 'atuo'; did you mean 'auto'?",
        },
    ),
    "data.flip": (["auto", True, False], {"on": "boolean or 'auto', got 'on'", 1: "boolean or 'auto', got 1"}),
    "augmentation.policy": (
        ["none", "autoaugment", "randaugment", "trivialaugment"],
        {"randaug": "'none', 'autoaugment', 'randaugment' or 'trivialaugment', got 'randaug'", None: "got null"},
    ),
    "augmentation.learned_on": (["cifar10", "imagenet", "svhn"], {"cifar": "'cifar10', 'imagenet' or 'svhn'"}),
    "augmentation.num_ops": ([1, 5], {0: "greater than or equal to 1, got 0", 1.5: f"{WHOLE} 1.5"}),
    "augmentation.magnitude": (
        [0, 30],
        {-1: "greater than or equal to 0, got -1", 31: "less than or equal to 30, got 31", 9.5: f"{WHOLE} 9.5"},
    ),
    "augmentation.color_jitter": ([0, 0.4, 2.0], {-0.1: "greater than or equal to 0, got -0.1", math.inf: "finite"}),
    "augmentation.erasing": ([0, 1], {1.1: "less than or equal to 1, got 1.1", -0.1: "greater than or equal to 0"}),
    "augmentation.mixup": ([0, 0.2, 8.0], {-0.1: "greater than or equal to 0, got -0.1", math.nan: "got nan"}),
    "augmentation.cutmix": ([0, 1.0], {-0.1: "greater than or equal to 0, got -0.1", math.inf: "finite"}),
    "augmentation.mix_probability": ([0, 1], {1.1: "less than or equal to 1", "half": f"{NUMBER} 'half'"}),
    "model.name": (["resnet8", "torchvision:alexnet"], {8: "string, got 8"}),
    "model.args": (
        [{}, {"a": 0.5, "b_1": 2, "c": True, "d": "text", "e": [1, [2, 3]]}],
        {3: "a map, got 3", "a": "a map, got 'a'", None: "a map, got"},
    ),
    "model.pretrained": ([True, False], {1: "boolean, got 1", "yes": "boolean, got 'yes'"}),
    "model.checkpoint": ([None, "some/file.pt"], {3: "string, got 3"}),
    "training.epochs": ([None, 1, 10**6], {0: "greater than or equal to 1, got 0", 1.5: f"{WHOLE} 1.5"}),
    "training.total_epochs": ([None, 2, 10**6], {0: "greater than or equal to 1, got 0", 1.5: f"{WHOLE} 1.5"}),
    "training.batch_size": ([2, 4096], {1: "greater than or equal to 2, got 1", None: f"{WHOLE} null"}),
    "training.lr": (
        [1e-12, 1, 100.0],
        {
            0: "greater than 0, got 0",
            -0.1: "greater than 0, got -0.1",
            math.inf: "a finite number, got inf",
            math.nan: "got nan",
            "1e-4": "write 0.0001",
            "fast": f"{NUMBER} 'fast'",
        },
    ),
    "training.optimizer": (
        [],  # tests/space/test_optimizer_arguments.py
        {"sgd": "a map of keys, got 'sgd'", None: "a map of keys, got null"},
    ),
    "training.decay_norm_and_bias": ([True, False], {1: "boolean, got 1"}),
    "training.momentum": ([0, 0.999], {1: "less than 1, got 1", -0.1: "greater than or equal to 0"}),
    "training.weight_decay": (
        [0, 1.0],
        {-1e-4: "greater than or equal to 0, got -0.0001", math.inf: "a finite number, got inf"},
    ),
    "training.schedule": (
        ["step", "cosine", "linear", "one_cycle", "constant"],
        {
            "cosin": "unknown name 'cosin'; choose from step, cosine, linear, one_cycle, constant; "
            "did you mean 'cosine'?"
        },
    ),
    "training.patience": ([None, 1], {0: "greater than or equal to 1, got 0", 1.5: WHOLE}),
    "training.keep": (["last", "best"], {"first": "'last' or 'best', got 'first'"}),
    "training.warmup_epochs": ([0, 0.5, 5], {-1: "greater than or equal to 0, got -1", 200: "below the epochs"}),
    "training.decay_epochs": (
        [1, 60, [100, 150]],
        {0: "greater than or equal to 1", 1.5: "integer or a valid list, got 1.5", 60.0: "integer"},
    ),
    "training.decay_rate": ([0.1, 0.999], {0: "greater than 0, got 0", 1: "less than 1, got 1"}),
    "training.min_lr": ([0, 1e-5, 0.1], {-1e-5: "greater than or equal to 0", math.inf: "a finite number, got inf"}),
    "training.accumulate": ([1, 64], {0: "greater than or equal to 1, got 0", None: f"{WHOLE} null"}),
    "training.clip_grad_norm": ([None, 0.1, 5], {0: "greater than 0, got 0", "1.0": "got '1.0'"}),
    "training.precision": (
        ["auto", "float32", "bfloat16"],
        {"float23": "'auto', 'float32' or 'bfloat16', got 'float23'; did you mean 'float32'?"},
    ),
    "training.deterministic": ([True, False], {1: "boolean, got 1"}),
    "population.num_peers": ([2, 64], {0: "greater than or equal to 1, got 0", "two": f"{WHOLE} 'two'"}),
    "population.topology": (
        ["auto", "ring", "random_pairs", "all", "best"],
        {"rign": "unknown name 'rign'; choose from auto, ring, random_pairs, all, mean, best; did you mean 'ring'?"},
    ),
    "population.branch_at": ([0, 0.5, 0.99], {1: "less than 1, got 1", -0.1: "greater than or equal to 0, got -0.1"}),
    "population.sync_until": ([0, 0.5, 1], {1.1: "less than or equal to 1, got 1.1", "half": f"{NUMBER} 'half'"}),
    "population.repair": ([False], {"on": "boolean, got 'on'", True: "needs an exchange rule"}),
    "population.exchange_every": (
        ["round", 1, 100],
        {0: "greater than or equal to 1", "rund": "did you mean 'round'?"},
    ),
    "population.epochs_per_round": ([1, 200], {0: "greater than or equal to 1, got 0"}),
    "population.diversity": (
        ["none", "learning_rate"],
        {
            "lr": "'none' or 'learning_rate' or a map, got 'lr'",
            "learning_rat": "got 'learning_rat'; did you mean 'learning_rate'?",
        },
    ),
    "population.output": (
        ["best_peer", "ensemble", "uniform_soup", "greedy_soup"],
        {"best": "'best_peer', 'ensemble', 'uniform_soup' or 'greedy_soup', got 'best'"},
    ),
    "population.mode": (["sync", "async"], {"nowait": "'sync' or 'async', got 'nowait'"}),
    "population.max_staleness": ([0, 2, 100], {-1: "greater than or equal to 0, got -1", 0.5: WHOLE}),
    "population.deadline_factor": ([1.1, 1000], {1: "greater than 1, got 1", math.inf: "finite number, got inf"}),
    "population.max_peer_restarts": ([0, 100], {-1: "greater than or equal to 0, got -1", 0.5: WHOLE}),
    "population.replace_timeout_s": ([0.1, 10**6], {0: "greater than 0, got 0", math.inf: "finite number, got inf"}),
    "population.min_peers": ([1, 2, None], {0: "greater than or equal to 1", 1.5: WHOLE}),
    "population.peers_per_actor": (
        ["auto", 1, 8],
        {
            0: "greater than or equal to 1 or 'auto', got 0",
            1.5: "integer or 'auto', got 1.5",
            "all": "integer or 'auto', got 'all'",
        },
    ),
    "population.round_timeout_s": ([0.1, 10**6], {0: "greater than 0, got 0", math.inf: "finite number, got inf"}),
    "graft.source": (
        ["external", "internal", "noise"],
        {"intern": "'external', 'internal' or 'noise', got 'intern'; did you mean 'internal'?"},
    ),
    "graft.alpha": (
        ["adaptive", 0, 0.5, 1, "python:user_parts.keep_the_better"],
        {
            1.5: "less than or equal to 1 or 'adaptive' or python:MODULE.NAME, got 1.5",
            -0.1: "greater than or equal to 0 or 'adaptive' or python:MODULE.NAME, got -0.1",
            "adaptiv": "number or 'adaptive' or python:MODULE.NAME, got 'adaptiv'; did you mean 'adaptive'?",
        },
    ),
    "graft.A": ([0, 1], {1.1: "less than or equal to 1, got 1.1", -1: "greater than or equal to 0"}),
    "graft.c": ([1e-9, 1e9], {0: "greater than 0, got 0", math.inf: "a finite number, got inf"}),
    "graft.criterion": (
        [*CRITERIA, "python:user_parts.spread"],
        {"entropi": "unknown name 'entropi'; choose from l1, l2, entropy", 1: "string, got 1"},
    ),
    "graft.base": (
        [0, 0.8, 1],
        {1.1: "less than or equal to 1, got 1.1", -0.1: "greater than or equal to 0, got -0.1"},
    ),
    "graft.sites": (["auto", "conv_bn", "all"], {"al": "'auto', 'conv_bn' or 'all', got 'al'; did you mean 'all'?"}),
    "graft.level": (["layer", "filter"], {"layers": "'layer' or 'filter', got 'layers'; did you mean 'layer'?"}),
    "graft.burn_in_rounds": ([0, 199], {-1: "greater than or equal to 0, got -1", 0.5: WHOLE}),
    "graft.threshold": ([1e-9, 10], {0: "greater than 0, got 0", math.inf: "a finite number, got inf"}),
    "graft.noise_base": ([1e-9, 0.999], {0: "greater than 0, got 0", 1: "less than 1, got 1"}),
    "graft.num_bins": (
        [2, 4096],
        {1: "greater than or equal to 2, got 1", 4097: "less than or equal to 4096, got 4097"},
    ),
    "graft.compat": (["none", "released_code"], {"released": "got 'released'; did you mean 'released_code'?"}),
    "wash.share": ([1e-9, 1], {0: "greater than 0, got 0", 1.1: "less than or equal to 1, got 1.1"}),
    "sparta.share": ([1e-9, 1], {0: "greater than 0, got 0", 1.1: "less than or equal to 1, got 1.1"}),
    "outer.lr": ([1e-9, 1.5], {0: "greater than 0, got 0"}),
    "outer.momentum": ([0, 0.999], {1: "less than 1, got 1"}),
    "population.initialization": (["auto", "own", "same"], {"equal": "got 'equal'"}),
    "papa.rate": ([1e-9, 0.999], {0: "greater than 0, got 0", 1: "less than 1, got 1"}),
    "exchange": (["python:user_parts.Pull", None], {"papa": "python:MODULE.NAME, got 'papa'", 1: "string, got 1"}),
    "distillation.teachers": ([TEACHERS, TEACHERS * 3], {(): "list, got ()", "resnet8": "list, got 'resnet8'"}),
    "distillation.temperature": ([1e-9, 20], {0: "greater than 0, got 0", "2": "write 2"}),
    "distillation.weight": ([0, 10.0], {-1: "greater than or equal to 0, got -1", math.inf: "got inf"}),
    "mutual.exchange": (
        ["logits", "snapshots"],
        {"logit": "'logits' or 'snapshots', got 'logit'; did you mean 'logits'?"},
    ),
    "mutual.temperature": ([1e-9, 20], {0: "greater than 0, got 0"}),
    "mutual.weight": ([0, 10.0], {-1: "greater than or equal to 0, got -1"}),
    "repr.S1": ([1, 56], {0: "greater than or equal to 1, got 0", 1.5: WHOLE}),
    "repr.S2": ([1, 46], {0: "greater than or equal to 1, got 0", 1.5: WHOLE}),
    "repr.N": ([1, 6], {0: "greater than or equal to 1, got 0", 1.5: WHOLE}),
    "repr.rate": ([0, 0.999], {1: "less than 1, got 1", -0.1: "greater than or equal to 0, got -0.1"}),
    "repr.criterion": (
        list(ALL_CRITERIA),
        {
            "orthogonal": f"{CRITERION} 'orthogonal'; choose from l1, l2, entropy, "
            "bn_scale, bn_activation, orthogonality, geometric_median, "
            "passive, random, taylor, activation, apoz, interaction, dagger; did you mean 'orthogonality'?"
        },
    ),
    "repr.skip_first": ([True, False], {1: "boolean, got 1"}),
    "pruning.preset": (
        [None, "soft", "clr_rnf", "gate_decorator", "interaction", "dagger", "holistic"],
        {"sfp": "got 'sfp'"},
    ),
    "pruning.criterion": ([None, *ALL_CRITERIA], {"l3": f"{CRITERION} 'l3'; choose from l1, l2, "}),
    "pruning.allocation": (
        [None, "uniform", "global", "cross_layer", "utilization", "budget"],
        {"local": "got 'local'"},
    ),
    "pruning.flops_exponent": ([0, 0.5, 10], {-1: "greater than or equal to 0"}),
    "pruning.selection": ([None, "lowest", "k_reciprocal"], {"highest": "got 'highest'"}),
    "pruning.schedule": (
        [None, "attenuate", "soft", "asymptotic", "softer", "hard", "gated"],
        {"gentle": "got 'gentle'"},
    ),
    "pruning.factor": ([0.001, 1], {1.1: "less than or equal to 1, got 1.1", 0: "greater than 0"}),
    "pruning.rate": ([0, 0.999], {1: "less than 1, got 1", -0.1: "greater than or equal to 0"}),
    "pruning.target": ([None, 0.01, 1], {1.5: "less than or equal to 1, got 1.5", 0: "greater than 0"}),
    "pruning.target_of": (["flops", "parameters"], {"layers": "got 'layers'"}),
    "pruning.start": ([0, 0.999], {1: "less than 1, got 1", -0.1: "greater than or equal to 0"}),
    "pruning.least_share": ([0, 0.9], {1: "less than 1, got 1"}),
    "pruning.ticks": ([1, 5], {0: "greater than or equal to 1"}),
    "pruning.tock_epochs": ([1, 5], {0: "greater than or equal to 1"}),
    "pruning.sparsity": ([0, 0.1], {-1: "greater than or equal to 0"}),
    "pruning.finetune": ([0, 0.9], {1: "less than 1, got 1"}),
    "pruning.coupled": ([None, "apart", "sum", "skip"], {"together": "got 'together'"}),
    "pruning.skip_first": ([True, False], {0: "boolean, got 0"}),
    "pruning.remove": ([True, False], {None: "boolean, got null"}),
    "swa.start": ([0, 0.999], {1: "less than 1, got 1", -0.1: "greater than or equal to 0, got -0.1"}),
    "swa.lr": ([None, 1e-9, 1], {0: "greater than 0, got 0", "1e-3": "write 0.001"}),
    "ema.decay": ([0.5, 0.9999], {1: "less than 1, got 1", 0: "greater than 0, got 0"}),
    "diagnostics.thresholds": ([[], [0.1, 1]], {0.1: "list, got 0.1"}),
    "diagnostics.density_of": ([None, "run/best"], {1: "string, got 1"}),
    "diagnostics.density_threshold": ([1e-9, 10], {0: "greater than 0, got 0"}),
    "diagnostics.pairs": ([True, False], {1: "boolean, got 1"}),
    "task.name": (["classification"], {"classify": "got 'classify'; did you mean 'classification'?", None: "got null"}),
    "task.label_smoothing": ([0, 0.999], {1: "less than 1, got 1", -0.1: "greater than or equal to 0, got -0.1"}),
    "task.triplet_weight": ([0, 1], {-1: "greater than or equal to 0, got -1", math.inf: "got inf"}),
    "task.triplet_margin": ([0, 0.3], {-1: "greater than or equal to 0, got -1"}),
    "task.images_per_identity": ([2, 4], {1: "greater than or equal to 2, got 1"}),
    "task.distance": (["euclidean", "cosine"], {"l2": "got 'l2'"}),
    "task.metrics": ([None, {"accuracy": "max"}], {(): "got ()"}),
    "data.camera": ([None], {1: "string, got 1"}),
    "tune.metric": (["val_accuracy", ["val_accuracy"]], {"accuracy": "write val_accuracy", 1: "got 1"}),
    "tune.mode": (["max", ["max"]], {"maximum": "got 'maximum'"}),
    "tune.num_samples": ([None, 1], {0: "greater than or equal to 1, got 0"}),
    "tune.sampler": (
        ["tpe", "gp", "qmc", "random"],
        {"random_": "'tpe', 'gp', 'qmc', 'random' or 'grid', got 'random_'; did you mean 'random'?"},
    ),
    "tune.first": ([None, []], {"adaptive": "list, got 'adaptive'"}),
    "tune.max_failures": ([0, 100], {-1: "greater than or equal to 0, got -1", 0.5: WHOLE}),
    "tune.scheduler": (["none", "asha"], {"ahsa": "'none', 'asha' or 'pbt', got 'ahsa'; did you mean 'asha'?"}),
    "tune.keep": (["all", "best"], {"last": "'all' or 'best', got 'last'"}),
    "tune.trackers": ([[], ["wandb", "mlflow", "comet", "aim"]], {"mlflow": "list, got 'mlflow'"}),
    "tune.optuna_storage": ([None, "study.log", "sqlite:///study.db"], {1: "string, got 1"}),
    "resources.cpus_per_peer": (
        ["auto", 0.1, 8],
        {
            0: "greater than 0 or 'auto', got 0",
            "all": f"{AUTO_NUMBER} 'all'",
            math.inf: "finite number or 'auto', got inf",
        },
    ),
    "resources.gpus_per_peer": (["auto", 0, 0.5, 8], {-1: "greater than or equal to 0 or 'auto', got -1"}),
}


def tree_with(key: str, value: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    if key == "population.exchange_every":
        tree["graft"] = {}
    if key.startswith("distillation"):
        put(tree, "distillation.teachers", TEACHERS)
    if value in ("budget", "holistic"):
        put(tree, "pruning.target", 0.5)
    put(tree, key, value)
    return tree


def test_every_key_is_covered() -> None:
    assert set(KEYS) == set(known_keys(Settings))


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, (accepted, _) in KEYS.items() for value in accepted])
def test_accepted_values_are_kept_unchanged(key: str, value: Any) -> None:
    settings: Any = parse_space(tree_with(key, value)).resolve()
    for name in key.split("."):
        settings = getattr(settings, name)
    assert settings == ([TeacherSettings(**teacher) for teacher in value] if key.endswith("teachers") else value)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [(key, value, rule) for key, (_, refused) in KEYS.items() for value, rule in refused.items()],
)
def test_invalid_values_are_refused_with_key_and_rule(key: str, value: Any, rule: str) -> None:
    with pytest.raises(SpaceError) as caught:
        parse_space(tree_with(key, value), "space.yaml")
    message = str(caught.value)
    assert message.startswith(f"space.yaml: {key}: ")
    assert format_value(value) in message
    assert rule in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("section", "value"),
    [
        (section, value)
        for section in SECTIONS
        for value in (None, 3, True, "text", [1])
        if (value is not None or section not in METHODS) and (section, value) != ("task", "text")  # a name
    ],
)
def test_section_that_is_not_a_map_is_refused(section: str, value: Any) -> None:
    with pytest.raises(SpaceError, match=f"^space.yaml: {section}: .*section.*, got "):
        parse_space({section: value}, "space.yaml")


@pytest.mark.parametrize("section", METHODS)
def test_method_is_off_if_its_section_is_null_or_absent(section: str) -> None:
    assert getattr(parse_space({section: None}).resolve(), section) is None
    assert getattr(parse_space({}).resolve(), section) is None


def test_empty_graft_section_gives_the_published_values() -> None:
    assert Settings().graft is None
    graft = parse_space({"graft": {}}).resolve().graft
    assert graft is not None
    assert (graft.alpha, graft.A, graft.c, graft.num_bins) == ("adaptive", 0.4, 500.0, 10)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().training.epochs = 3


@given(st.integers(1, 500), st.data())
def test_rounds_are_the_fewest_that_hold_all_epochs(epochs: int, data: st.DataObject) -> None:
    per_round = data.draw(st.integers(1, epochs))
    settings = parse_space({"training": {"epochs": epochs}, "population": {"epochs_per_round": per_round}}).resolve()
    assert (settings.num_rounds - 1) * per_round < epochs <= settings.num_rounds * per_round


def test_defaults_are_the_recipe_of_the_papers() -> None:
    assert Settings().training == TrainingSettings(
        epochs=None, batch_size=128, lr=0.1, momentum=0.9, weight_decay=5e-4, schedule="step", precision="auto"
    )
    assert Settings().num_epochs == 200
