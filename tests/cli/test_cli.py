"""`python -m graftpop.tune`: help, dry run, and one-line refusals of bad input."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import yaml
from PIL import Image
from public_names import COMMANDS
from pyarrow import parquet
from typer.testing import CliRunner, Result

from graftpop import __version__
from graftpop.__main__ import app
from graftpop.cli.trial_table import value_text
from graftpop.space import load_space
from graftpop.study.samplers import make_sampler

SPACES = Path(__file__).parents[2] / "search_spaces"
DIGITS, CIFAR = str(SPACES / "digits.yaml"), str(SPACES / "cifar.yaml")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder, without settings from the environment."""
    for name in ("RAY_ADDRESS", "GRAFTPOP_DATA", "GRAFTPOP_STORAGE_URL", "FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def run_command(module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *module.split(), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def tune(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, ["tune", *arguments])


def refusal(*arguments: str) -> str:
    """Return the one-line error of a refused command, without "error: "."""
    result = tune(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    return checked(result.exit_code, result.stdout, result.stderr)


def checked(code: int, stdout: str, stderr: str) -> str:
    """Check for exit code 2, one line of error, no cluster and no run folder; return the line."""
    assert code == 2
    assert re.fullmatch(r"error: [^\n]+\n", stderr)
    assert "Traceback" not in stderr + stdout
    assert "dashboard" not in stdout
    assert not list(Path.cwd().rglob("run.json"))
    assert not Path("runs").exists()
    return stderr.strip().removeprefix("error: ")


# help


def test_help_lists_the_flags() -> None:
    assert set(re.findall(r"--[a-z-]+", run_command("-m graftpop.tune", "--help").stdout)) == COMMANDS["tune"]


@pytest.mark.parametrize("module", ["graftpop", "graftpop.tune", "graftpop.report"])
def test_help_imports_no_large_library(module: str) -> None:
    """tests/test_import_cost.py and test_init.py check the other commands."""
    answer = run_command(f"-X importtime -m {module}", "--help")
    assert answer.returncode == 0
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in answer.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "ray", "torchvision", "numpy", "pyarrow", "sklearn", "optuna", "pydantic"}


def test_module_and_command_have_the_same_help() -> None:
    of_module, of_command = (run_command(name, "--help").stdout for name in ("-m graftpop.tune", "-m graftpop tune"))
    assert of_module.replace("python -m graftpop.tune", "graftpop tune").split() == of_command.split()


def test_version_and_completion_are_options_of_the_command() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.stdout) == (0, f"{__version__}\n")
    assert {"--version", "--install-completion", "--show-completion"} <= set(
        re.findall(r"--[a-z-]+", CliRunner().invoke(app, ["--help"]).stdout)
    )


# a dry run


@pytest.mark.parametrize(
    ("space", "num_trials", "num_rounds", "duration"),
    [
        (
            DIGITS,
            4,
            12,
            r"about \d+ \w+ on this machine with \d+ cores, .* per batch of 32 images, .* start .* 13 s .*",
        ),
        (CIFAR, 16, 200, "not estimated: cifar10 .*"),  # a dry run does not download it
    ],
)
def test_dry_run_shows_the_plan_and_starts_nothing(
    space: str, num_trials: int, num_rounds: int, duration: str, empty_folder: Path
) -> None:
    result = tune("--space", space, "--dry-run")
    assert (result.exit_code, result.stderr) == (0, "")
    stages, settings, plan = result.stdout.split("\n\n", 2)
    assert stages.split()[:2] == ["checking", space]
    assert settings + "\n" == load_space(space).to_yaml()
    lines = [line for line in plan.splitlines() if not line.startswith("sites")]
    sites = [line for line in plan.splitlines() if line.startswith("sites")]
    assert len(sites) == ("estimated" not in duration)  # an absent data set is not downloaded
    assert all(re.fullmatch(r"sites +resnet8: 7 sites .*conv_bn.* \d\d\.\d% .*", line) for line in sites)
    assert re.fullmatch(r"cluster +1 node, \d+ CPU, \d+ GPU", lines[0])
    assert re.fullmatch(f"study +{num_trials} trials of up to {num_rounds} rounds", lines[1])
    assert len(lines) == 6
    assert re.fullmatch(f"time +{duration}", lines[5])
    for number, line in enumerate(lines[2:5]):
        assert line.startswith(f"trial {number}    population.num_peers = ")
        assert re.search(
            r"(graft\.A = 0?\.?\d+, graft\.c = \d+(\.\d+)?|graft\.alpha = 0\.5)  "
            r"\(\d peers of [\d.]+ CPU( and [\d.]+ GPU)?(, \d to a process)?\)$",
            line,
        )
    assert not list(empty_folder.iterdir())


def test_dry_run_of_cifar_shows_the_papers_recipe() -> None:
    training = yaml.safe_load(tune("--space", CIFAR, "--dry-run").stdout.split("\n\n")[1])["training"]
    assert (training["epochs"], training["batch_size"], training["lr"], training["schedule"]) == (200, 128, 0.1, "step")


def test_dry_run_applies_the_options() -> None:
    for tracker in ("mlflow", "wandb"):
        pytest.importorskip(tracker)
    result = tune(
        "--space",
        DIGITS,
        "--set",
        "training.epochs=7",
        "--set",
        "population.num_peers=5",
        "--num-samples",
        "9",
        "--seed",
        "3",
        "--tracker",
        "mlflow",
        "--tracker",
        "wandb",
        "--dry-run",
    )
    settings = yaml.safe_load(result.stdout.split("\n\n")[1])
    assert settings["tune"]["trackers"] == ["mlflow", "wandb"]
    assert (settings["training"]["epochs"], settings["population"]["num_peers"], settings["seed"]) == (7, 5, 3)
    assert "9 trials of up to 7 rounds" in result.stdout
    assert "(5 peers of " in result.stdout


def shown_trials(*overrides: str) -> list[str]:
    """Return the trials of a dry run, without the resources that each requests."""
    options = [part for override in overrides for part in ("--set", override)]
    shown = tune("--space", DIGITS, *options, "--dry-run").stdout
    return [line.split("  (")[0] for line in shown.splitlines() if line.startswith("trial ")]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_dry_run_shows_the_studys_first_trials(sampler: str) -> None:
    overrides = [f"tune.sampler={sampler}", "seed=3"]
    sampling = make_sampler(load_space(DIGITS, overrides))
    samples = [sampling.sample(number) for number in range(3)]
    assert shown_trials(*overrides) == [
        f"trial {number}    " + ", ".join(f"{key} = {value_text(value)}" for key, value in sample.items())
        for number, sample in enumerate(samples)
    ]


def test_dry_run_of_a_grid_shows_its_first_points() -> None:
    grid = ["tune={sampler: grid}", "population.num_peers=2", "graft.c=100.0"]
    assert shown_trials(*grid, "graft.A={grid: [0.2, 0.4]}") == ["trial 0    graft.A = 0.2", "trial 1    graft.A = 0.4"]


def test_dry_run_trials_depend_on_the_seed() -> None:
    assert shown_trials("seed=1") == shown_trials("seed=1")
    assert shown_trials("seed=1") != shown_trials("seed=2")


def test_dry_run_without_domains_shows_one_trial() -> None:
    shown = shown_trials("graft=null", "population.num_peers=1", "tune.num_samples=1")
    assert shown == ["trial 0    nothing is searched"]


def test_dry_run_imports_user_code_and_says_so(empty_folder: Path) -> None:
    named = tune("--space", DIGITS, "--set", "model.name=python:network_makers.TwoSites", "--dry-run")
    assert re.search(r"^imported +python:network_makers\.TwoSites\b", named.stdout, re.MULTILINE)
    assert "imported" not in tune("--space", DIGITS, "--dry-run").stdout


def test_password_is_not_printed() -> None:
    url, shown = "postgresql://me:1234@host/db", "postgresql://me:***@host/db"
    for result in (
        tune("--space", DIGITS, "--set", f"tune.optuna_storage={url}", "--dry-run"),
        tune("--space", DIGITS, "--set", f"tune.optuna_storage=[{url}]"),  # refused
    ):
        assert shown in result.output
        assert "1234" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "data.max_train_images=5000"],
            r"--set data.max_train_images=5000: data.max_train_images: .* got 5000",
        ),
        (["--set", "model.name=python:network_kinds.Half"], r"--set .*: model.name: .*bfloat16"),
        (
            ["--set", "model.name=python:network_kinds.ConvNorm", "--set", "graft.sites=conv_bn"],
            r"--set .*: model.name: .*BatchNorm",
        ),
        (["--set", "graft={criterion: 'python:user_parts.absent'}"], r"--set .*: graft.criterion: .*user_parts.absent"),
        (["--set", "model.name=vgg16"], r"--set .*: model.name: 'vgg16' .*\(3, 8, 8\)"),
        (
            ["--set", "distillation={teachers: [{checkpoint: absent}]}"],
            r".*distillation.teachers\[0\].checkpoint: .*absent",
        ),
        (["--set", "tune.optuna_storage=mysql+nodriver://host/db"], r"--set .*: tune.optuna_storage: .*nodriver"),
        (["--set", "tune.optuna_storage=postgresql+pg8000://host/db"], r"--set .*: tune.optuna_storage: .*pg8000"),
        (
            ["--set", "data.name=digit"],
            r"--set data.name=digit: data.name: unknown name 'digit'; .*did you mean 'digits'\?",
        ),
        (
            ["--set", "model.name=resnet9"],
            "--set model.name=resnet9: model.name: unknown name 'resnet9'; choose from resnet8, .*torchvision:NAME",
        ),
        (
            ["--set", "model.name={choice: [resnet8, torchvision:alexnt]}"],
            r"--set model.name=.*: model.name: .*torchvision:alexnt.*did you mean torchvision:alexnet\?",
        ),
        (
            ["--set", "model={choice: [{name: resnet8}, {name: resnet9}]}"],
            "--set model=.*: model.name: unknown name 'resnet9'",
        ),
        (["--set", "resources.cpus_per_peer=999"], f"{DIGITS}: population.num_peers: 3 peers of 999 CPU"),
        (["--out", "held"], "--out .*/held: .*--resume .*/held"),
    ],
)
def test_dry_run_refuses_all_that_the_study_would(arguments: list[str], message: str) -> None:
    Path("held").mkdir()
    Path("held/space.yaml").write_text("seed: 5", encoding="utf-8")
    assert re.match(message, refusal("--space", DIGITS, *arguments, "--dry-run"))


def test_dry_run_with_extras_writes_nothing(empty_folder: Path) -> None:
    pytest.importorskip("mlflow")
    extras = ["--tracker", "mlflow", "--set", "tune.optuna_storage=sqlite:///study.db"]
    result = tune("--space", DIGITS, *extras, "--set", "model.name=python:network_makers.TwoSites", "--dry-run")
    assert (result.exit_code, result.stderr) == (0, "")
    assert not list(empty_folder.iterdir())


# bad input


def test_missing_space_is_refused() -> None:
    answer = run_command("-m graftpop.tune")
    refused = checked(answer.returncode, answer.stdout, answer.stderr)
    assert refused.startswith("--space: ")
    assert "--space digits" in refused


def test_more_peers_than_the_cluster_can_place_are_refused() -> None:
    options = ("--set", "population.num_peers={choice: [2, 5000]}", "--set", "population.mode=async")
    refused = refusal("--space", DIGITS, *options, "--dry-run")
    assert refused.startswith("--set population.num_peers={choice: [2, 5000]}: population.num_peers: 5000 peers ")
    assert re.search(r"1 node, \d+ CPU, \d+ GPU\D+(\d+); .* \1 peers.*resources.cpus_per_peer", refused)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "absent.yaml"], "absent.yaml: .*No such file"),
        (["--space", "."], r"\.: .*directory"),
        (
            ["--space", DIGITS, "--set", "training.epoch=3"],
            r"--set training.epoch=3: unknown key 'training.epoch'; .*did you mean 'training.epochs'\?",
        ),
        (
            ["--space", DIGITS, "--set", "population.num_peers=1"],
            "--set population.num_peers=1: population.num_peers: .* 2 peers, got 1",
        ),
        (
            ["--space", DIGITS, "--set", "population.topology=rign"],
            r"--set population.topology=rign: population.topology: unknown name 'rign'; .*did you mean",
        ),
        (
            ["--space", DIGITS, "--set", "graft.A={choice: []}"],
            r"--set graft.A=\{choice: \[\]\}: graft.A: .*, got \[\]",
        ),
        (["--space", DIGITS, "--num-samples", "0"], "--set tune.num_samples=0: tune.num_samples: .*, got 0"),
        (["--space", DIGITS, "--tracker", "wandbb"], r"--set tune.trackers=\[wandbb\]: tune.trackers\[0\]: .*'wandb'"),
        (["--space", DIGITS, "--seed", "-1"], "--set seed=-1: seed: .*, got -1"),
        (["--space", DIGITS, "--out", "nosuch://bucket/run"], "nosuch://bucket/run: .*s3://"),
        (["--resume", "absent"], ".*/absent: .*no space.yaml; .*runs/NAME-TIME$"),
        (["--resume", "."], ".*/here: .*no space.yaml; "),
        (["--resume", "nosuch://bucket/run"], "nosuch://bucket/run: .*s3://bucket/path"),
        (["--resume", "run", "--seed", "3"], "--resume: .*--address$"),
        (["--resume", "run", "--dry-run"], "--resume: .*--address$"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(arguments: list[str], message: str) -> None:
    assert re.match(message, refusal(*arguments))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c", r"space\.yaml: line 1 "),
        ("\x00", r"space\.yaml: not valid YAML: "),
        ("seed: 1\nseed: 2", r"space\.yaml: line 2 .*'seed'"),
        ("trainin: {}", r"space\.yaml: trainin: unknown key 'trainin'; choose from .*; did you mean 'training'\?$"),
        ("training: {lr: '1e-4'}", r"space\.yaml: training\.lr: .*got '1e-4'; .*0\.0001$"),
        ("model: {name: resnet9}", r"space\.yaml: model\.name: unknown name 'resnet9'"),
        (
            "population: {num_peers: 5000, mode: async}\ngraft: {}\ndata: {name: digits}\nmodel: {name: resnet8}",
            r"space\.yaml: population\.num_peers: 5000 peers of ",
        ),
    ],
)
def test_bad_space_is_refused_with_its_file(text: str, message: str) -> None:
    Path("space.yaml").write_text(text, encoding="utf-8")
    assert re.match(message, refusal("--space", "space.yaml", "--dry-run"))


def test_folder_with_a_run_is_not_overwritten(empty_folder: Path) -> None:
    held = empty_folder / "ref"
    held.mkdir()
    (held / "space.yaml").write_text("seed: 5")
    assert re.fullmatch(f"--out {held}: .*; .*--resume {held}", refusal("--space", DIGITS, "--out", "ref"))
    assert [path.name for path in held.iterdir()] == ["space.yaml"]
    assert (held / "space.yaml").read_text() == "seed: 5"


def test_folder_of_a_refused_study_is_reusable(empty_folder: Path) -> None:
    unreachable = ("--space", DIGITS, "--out", "out", "--address", "127.0.0.1:1")
    assert refusal(*unreachable).startswith("--address 127.0.0.1:1: ")
    assert refusal(*unreachable).startswith("--address 127.0.0.1:1: ")
    assert re.match(f"{empty_folder}/out: .*no space.yaml", refusal("--resume", "out"))


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", ".*got list"), ("a: b: c", "line 1 "), ("trainin: {}", "trainin: unknown key 'trainin'")],
)
def test_run_with_a_damaged_space_is_not_resumed(text: str, message: str, empty_folder: Path) -> None:
    (empty_folder / "run" / "tune").mkdir(parents=True)
    (empty_folder / "run" / "space.yaml").write_text(text)
    (empty_folder / "run" / "run.json").write_text("{}")
    result = tune("--resume", "run")
    assert (result.exit_code, result.stdout.split()) == (2, ["checking", "run"])
    assert re.match(f"error: {empty_folder}/run/space.yaml: {message}", result.stderr)


def test_run_without_the_password_of_its_storage_is_not_resumed(empty_folder: Path) -> None:
    (empty_folder / "run" / "tune").mkdir(parents=True)
    (empty_folder / "run" / "space.yaml").write_text("tune: {optuna_storage: 'postgresql://me:***@host/db'}")
    (empty_folder / "run" / "run.json").write_text("{}")
    result = tune("--resume", "run")
    assert (result.exit_code, result.stdout.split()) == (2, ["checking", "run"])
    assert result.stderr.startswith(f"error: {empty_folder}/run/space.yaml: tune.optuna_storage: ")
    assert "GRAFTPOP_STORAGE_URL" in result.stderr


# data


def png(side: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_table(folder: Path, part: str, labels: Sequence[int], corrupt: int | None = None) -> None:
    """Write 8 x 8 images; the one in row `corrupt` is truncated."""
    images = [{"bytes": png(8, row)[: 150 if row == corrupt else None], "path": None} for row in range(len(labels))]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    names = '{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["cat", "dog", "newt"]}}}}'
    table = pyarrow.table({"image": pyarrow.array(images, kind), "label": labels})
    parquet.write_table(table.replace_schema_metadata({"huggingface": names}), folder / f"{part}.parquet")


@pytest.fixture
def data_folder(empty_folder: Path) -> Path:
    folder = empty_folder / "data"
    folder.mkdir()
    return folder


def out_of_range(folder: Path) -> str:
    write_table(folder, "train", [0, 1, 2] * 4)
    write_table(folder, "test", [0, 1, 2, 3])
    return r"{folder}/test\.parquet row 3: .*'label'.*\[0, 2\], got 3"


def negative(folder: Path) -> str:
    write_table(folder, "train", [0, 1, 2, 0, 1, -1])
    write_table(folder, "test", [0, 1, 2])
    return r"{folder}/train\.parquet row 5: .*'label'.*\[0, 2\], got -1"


def corrupt(folder: Path) -> str:
    write_table(folder, "train", [0, 1, 2] * 4, corrupt=7)
    write_table(folder, "test", [0, 1, 2])
    return r"{folder}/train\.parquet row 7: "


def empty(folder: Path) -> str:
    return r"{folder}: .*train\*\.parquet"


def no_tables(folder: Path) -> str:
    (folder / "train.parquet").write_text("id,label\n1,2\n")
    write_table(folder, "test", [0, 1, 2])
    return r"{folder}/train\.parquet: .*Parquet"


@pytest.mark.parametrize("write", [out_of_range, negative, corrupt, empty, no_tables])
def test_bad_tables_are_refused_with_file_and_row(write: Callable[[Path], str], data_folder: Path) -> None:
    message = write(data_folder).replace("{folder}", re.escape(str(data_folder)))
    of_parquet = ("--set", "data.name=parquet", "--set", f"data.root={data_folder}")
    refused = refusal("--space", DIGITS, *of_parquet, "--dry-run")
    assert re.match(f"{re.escape(DIGITS)}: {message}", refused)


def write_folders(folder: Path, side: int) -> None:
    for part, number in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for image in range(number):
                (folder / part / name / f"{image}.png").write_bytes(png(side, image))


def of_folders(data_folder: Path, **options: Any) -> list[str]:
    settings = {"data.name": "folder", "data.root": data_folder, "data.max_train_images": "null", **options}
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["--space", DIGITS, "--dry-run", *given]


def test_absent_or_empty_folder_of_images_is_refused(data_folder: Path) -> None:
    assert re.search(rf"{data_folder}: .*train/<class>/\*\.png", refusal(*of_folders(data_folder)))
    absent = data_folder / "absent"
    assert re.match(f"--set data.root={absent}: data.root: .*got '{absent}'", refusal(*of_folders(absent)))


def test_non_image_file_is_refused_with_its_path(data_folder: Path) -> None:
    write_folders(data_folder, side=8)
    bad = data_folder / "train" / "dog" / "3.png"
    bad.write_bytes(b"no image")
    assert refusal(*of_folders(data_folder)).startswith(f"{DIGITS}: {bad}: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder_is_refused_with_its_path(data_folder: Path) -> None:
    write_folders(data_folder, side=8)
    (data_folder / "train" / "cat").chmod(0)
    try:
        assert re.search(rf"data: .*got .*{data_folder}/train/cat", refusal(*of_folders(data_folder)))
    finally:
        (data_folder / "train" / "cat").chmod(0o755)


def test_network_without_a_site_is_refused(data_folder: Path) -> None:
    write_folders(data_folder, side=64)
    of_alexnet = of_folders(data_folder, **{"model.name": "torchvision:alexnet"})
    refused = refusal(*of_alexnet, "--set", "graft.sites=conv_bn")
    assert refused.startswith("--set model.name=torchvision:alexnet: model.name: 'torchvision:alexnet' ")
    assert "BatchNorm" in refused


def test_network_that_does_not_fit_the_images_is_refused() -> None:
    assert re.match(
        r"--set model.name=torchvision:alexnet: model.name: 'torchvision:alexnet' .*\(3, 8, 8\)",
        refusal("--space", DIGITS, "--set", "model.name=torchvision:alexnet", "--dry-run"),
    )
