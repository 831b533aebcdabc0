"""`python -m graftpop.tune`: its flags, what a dry run tells, and one clear line for every bad input."""

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
from pyarrow import parquet
from typer.testing import CliRunner, Result

from graftpop.space import load_space
from graftpop.tune import app

SPACES = Path(__file__).parents[2] / "search_spaces"
DIGITS, CIFAR = str(SPACES / "digits.yaml"), str(SPACES / "cifar.yaml")
FLAGS = {
    "--space",
    "--out",
    "--set",
    "--num-samples",
    "--seed",
    "--tracker",
    "--address",
    "--resume",
    "--dry-run",
    "--help",
}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in, and no settings from outside."""
    for name in ("RAY_ADDRESS", "GRAFTPOP_DATA", "FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
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
    return CliRunner().invoke(app, list(arguments))


def refusal(*arguments: str) -> str:
    """Return the line, less its beginning, by which the command refuses to start."""
    result = tune(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    return checked(result.exit_code, result.stdout, result.stderr)


def checked(code: int, stdout: str, stderr: str) -> str:
    """Check that nothing was started: a cluster would be told by its dashboard, a run by its folder."""
    assert code == 2
    assert re.fullmatch(r"error: [^\n]+\n", stderr)
    assert "Traceback" not in stderr + stdout
    assert "dashboard" not in stdout
    assert not list(Path.cwd().rglob("run.json"))
    assert not Path("runs").exists()
    return stderr.strip().removeprefix("error: ")


# help


def test_help_names_exactly_the_flags_that_are_frozen_and_imports_nothing_heavy() -> None:
    answer = run_command("-X importtime -m graftpop.tune", "--help")
    assert answer.returncode == 0
    assert set(re.findall(r"--[a-z-]+", answer.stdout)) == FLAGS
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in answer.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"torch", "ray", "torchvision", "numpy", "pyarrow", "sklearn", "optuna", "pydantic"}


def test_the_command_with_the_name_of_the_module_is_the_same() -> None:
    of_module, of_command = (run_command(name, "--help").stdout for name in ("-m graftpop.tune", "-m graftpop tune"))
    assert of_module.replace("python -m graftpop.tune", "graftpop tune").split() == of_command.split()


# a dry run


@pytest.mark.parametrize(("space", "num_trials", "num_rounds"), [(DIGITS, 4, 12), (CIFAR, 16, 200)])
def test_a_dry_run_shows_settings_resources_and_three_examples_and_starts_nothing(
    space: str, num_trials: int, num_rounds: int, empty_folder: Path
) -> None:
    result = tune("--space", space, "--dry-run")
    assert (result.exit_code, result.stderr) == (0, "")
    settings, _, plan = result.stdout.partition("\n\n")
    assert settings + "\n" == load_space(space).to_yaml()
    lines = plan.splitlines()
    assert re.fullmatch(r"cluster +1 node, \d+ CPU, \d+ GPU", lines[0])
    assert re.fullmatch(f"study +{num_trials} trials of up to {num_rounds} rounds", lines[1])
    assert len(lines) == 5
    for number, line in enumerate(lines[2:], start=1):
        assert line.startswith(f"example {number}  population.num_peers = ")
        assert re.search(
            r"graft\.A = 0?\.?\d+, graft\.c = \d+(\.\d+)?  "
            r"\(\d peers of [\d.]+ CPU( and [\d.]+ GPU)?(, \d to a process)?\)$",
            line,
        )
    assert not list(empty_folder.iterdir())


def test_the_dry_run_of_the_cifar_space_shows_the_papers_recipe() -> None:
    training = yaml.safe_load(tune("--space", CIFAR, "--dry-run").stdout.partition("\n\n")[0])["training"]
    assert (training["epochs"], training["batch_size"], training["lr"], training["schedule"]) == (200, 128, 0.1, "step")


def test_a_dry_run_shows_what_the_options_have_changed() -> None:
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
    settings = yaml.safe_load(result.stdout.partition("\n\n")[0])
    assert settings["tune"]["trackers"] == ["mlflow", "wandb"]
    assert (settings["training"]["epochs"], settings["population"]["num_peers"], settings["seed"]) == (7, 5, 3)
    assert "9 trials of up to 7 rounds" in result.stdout
    assert "(5 peers of " in result.stdout


def test_equal_seeds_show_equal_examples_and_others_others() -> None:
    def examples(seed: int) -> list[str]:
        shown = tune("--space", DIGITS, "--seed", str(seed), "--dry-run").stdout
        return [line for line in shown.splitlines() if line.startswith("example")]

    assert examples(1) == examples(1)
    assert examples(1) != examples(2)


def test_a_space_without_domains_shows_its_one_configuration() -> None:
    shown = tune("--space", DIGITS, "--set", "graft=null", "--set", "population.num_peers=1", "--dry-run").stdout
    assert [line.split("  (")[0] for line in shown.splitlines() if line.startswith("example")] == [
        "example 1  nothing is searched"
    ]


# bad input


def test_without_arguments_the_command_says_what_it_needs() -> None:
    answer = run_command("-m graftpop.tune")
    assert checked(answer.returncode, answer.stdout, answer.stderr) == (
        "--space: needs a YAML file, got none; try --space search_spaces/digits.yaml"
    )


def test_more_peers_than_the_cluster_can_ever_place_end_the_command_before_it_starts() -> None:
    answer = run_command("-m graftpop.tune", "--space", DIGITS, "--set", "population.num_peers={choice: [2, 5000]}")
    assert re.fullmatch(
        r"--set population.num_peers=\{choice: \[2, 5000\]\}: population.num_peers: 5000 peers of [\d.]+ CPU.* can "
        r"never be placed on this cluster \(1 node, \d+ CPU, \d+ GPU\), which has room for (\d+); choose at most \1 "
        r"peers, or less in resources.cpus_per_peer and resources.gpus_per_peer",
        checked(answer.returncode, answer.stdout, answer.stderr),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--space", "absent.yaml"],
            "absent.yaml: cannot be read: .*No such file.*; --space needs a YAML file such as",
        ),
        (["--space", "."], r"\.: cannot be read: .*directory"),
        (
            ["--space", DIGITS, "--set", "training.epoch=3"],
            r"--set training.epoch=3: unknown key 'training.epoch'; .*did you mean 'training.epochs'\?",
        ),
        (
            ["--space", DIGITS, "--set", "population.num_peers=1"],
            "--set population.num_peers=1: population.num_peers: grafting over a ring needs at least 2 peers, got 1",
        ),
        (
            ["--space", DIGITS, "--set", "population.topology=rign"],
            r"--set population.topology=rign: population.topology: unknown name 'rign'; choose from ring, .*; did you mean",
        ),
        (
            ["--space", DIGITS, "--set", "graft.A={choice: []}"],
            r"--set graft.A=\{choice: \[\]\}: graft.A: choice needs at least one value, got \[\]",
        ),
        (
            ["--space", DIGITS, "--num-samples", "0"],
            "--set tune.num_samples=0: tune.num_samples: must be greater than or ",
        ),
        (
            ["--space", DIGITS, "--tracker", "wandbb"],
            r"--set tune.trackers=\[wandbb\]: tune.trackers\[0\]: must be 'wandb', 'mlflow', ",
        ),
        (["--space", DIGITS, "--seed", "-1"], "--set seed=-1: seed: must be greater than or equal to 0, got -1"),
        (
            ["--space", DIGITS, "--set", "data.name=digit"],
            r"--set data.name=digit: data.name: unknown name 'digit'; choose from digits, cifar10, .*did you mean 'digits'\?",
        ),
        (
            ["--space", DIGITS, "--set", "model.name=resnet9"],
            "--set model.name=resnet9: model.name: unknown name 'resnet9'; choose from resnet8, .*torchvision:NAME builds",
        ),
        (
            ["--space", DIGITS, "--set", "model.name={choice: [resnet8, torchvision:alexnt]}"],
            r"--set model.name=.*: model.name: not a classifier of torchvision, got .*did you mean torchvision:alexnet\?",
        ),
        (
            ["--space", DIGITS, "--set", "model={choice: [{name: resnet8}, {name: resnet9}]}"],
            "--set model=.*: model.name: unknown name 'resnet9'",
        ),
        (
            ["--space", DIGITS, "--set", "data.max_train_images=5000"],
            r"--set data.max_train_images=5000: data.max_train_images: must be at most the number of training images, \d+, got 5000",
        ),
        (
            ["--space", DIGITS, "--set", "resources.cpus_per_peer=999"],
            f"{DIGITS}: population.num_peers: 3 peers of 999 CPU.* can never be placed on this cluster",
        ),
        (
            ["--space", DIGITS, "--out", "nosuch://bucket/run"],
            "nosuch://bucket/run: must be a folder or a URI such as s3://",
        ),
        (
            ["--resume", "absent"],
            ".*/absent: is no run, it has no space.yaml; give a folder that `python -m graftpop.tune` "
            "wrote, such as runs/NAME-TIME$",
        ),
        (["--resume", "."], ".*/here: is no run, it has no space.yaml; give a folder that"),
        (
            ["--resume", "nosuch://bucket/run"],
            "nosuch://bucket/run: must be a folder or a URI such as s3://bucket/path",
        ),
        (
            ["--resume", "run", "--seed", "3"],
            "--resume: a run goes on with the settings it has, got other options; give --resume RUN alone, or with --address",
        ),
        (["--resume", "run", "--dry-run"], "--resume: a run goes on with the settings it has, got other options"),
    ],
)
def test_bad_input_is_one_line_with_what_to_do_and_nothing_is_started(arguments: list[str], message: str) -> None:
    assert re.match(message, refusal(*arguments))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c", r"space\.yaml: line 1 not valid YAML: mapping values are not allowed here$"),
        ("\x00", r"space\.yaml: not valid YAML: unacceptable character"),
        ("seed: 1\nseed: 2", r"space\.yaml: line 2 not valid YAML: key 'seed' stands twice$"),
        ("trainin: {}", r"space\.yaml: trainin: unknown key 'trainin'; choose from .*; did you mean 'training'\?$"),
        ("training: {lr: 1e-4}", r"space\.yaml: training\.lr: must be a valid number, got '1e-4'; .*write 0\.0001$"),
        ("model: {name: resnet9}", r"space\.yaml: model\.name: unknown name 'resnet9'"),
        (
            "population: {num_peers: 5000}\ndata: {name: digits}\nmodel: {name: resnet8}",
            r"space\.yaml: population\.num_peers: 5000 peers of .* can never be placed",
        ),
    ],
)
def test_a_file_that_cannot_be_accepted_is_named(text: str, message: str) -> None:
    Path("space.yaml").write_text(text, encoding="utf-8")
    assert re.match(message, refusal("--space", "space.yaml"))


def test_a_folder_that_holds_a_run_is_not_written_over(empty_folder: Path) -> None:
    held = empty_folder / "ref"
    held.mkdir()
    (held / "space.yaml").write_text("seed: 5")
    assert refusal("--space", DIGITS, "--out", "ref") == (
        f"--out {held}: holds a run already; choose another folder, or go on with that run by --resume {held}"
    )
    assert [path.name for path in held.iterdir()] == ["space.yaml"]
    assert (held / "space.yaml").read_text() == "seed: 5"


def test_a_folder_in_which_no_run_came_to_be_can_be_given_again(empty_folder: Path) -> None:
    unreachable = ("--space", DIGITS, "--out", "out", "--address", "127.0.0.1:1")
    assert refusal(*unreachable).startswith("--address 127.0.0.1:1: no cluster could be joined")
    assert refusal(*unreachable).startswith("--address 127.0.0.1:1: no cluster could be joined")
    assert refusal("--resume", "out").startswith(f"{empty_folder}/out: is no run, it has no space.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must be a map of sections, got list"),
        ("a: b: c", "line 1 not valid YAML: mapping values are not allowed here"),
        ("trainin: {}", "trainin: unknown key 'trainin'"),
    ],
)
def test_a_run_whose_space_is_damaged_does_not_go_on(text: str, message: str, empty_folder: Path) -> None:
    (empty_folder / "run" / "tune").mkdir(parents=True)
    (empty_folder / "run" / "space.yaml").write_text(text)
    (empty_folder / "run" / "run.json").write_text("{}")
    result = tune("--resume", "run")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {empty_folder}/run/space.yaml: {message}")


# data


def png(side: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_table(folder: Path, part: str, labels: Sequence[int], corrupt: int | None = None) -> None:
    """Write 8 x 8 images; one of them can be cut short."""
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
    return r"{folder}/test\.parquet row 3: column 'label' must be in \[0, 2\], got 3"


def negative(folder: Path) -> str:
    write_table(folder, "train", [0, 1, 2, 0, 1, -1])
    write_table(folder, "test", [0, 1, 2])
    return r"{folder}/train\.parquet row 5: column 'label' must be in \[0, 2\], got -1"


def corrupt(folder: Path) -> str:
    write_table(folder, "train", [0, 1, 2] * 4, corrupt=7)
    write_table(folder, "test", [0, 1, 2])
    return r"{folder}/train\.parquet row 7: cannot be decoded \(.*\); replace or remove it"


def empty(folder: Path) -> str:
    return r"{folder}: must hold training and test images, got no training images; expected train\*\.parquet and"


def no_tables(folder: Path) -> str:
    (folder / "train.parquet").write_text("id,label\n1,2\n")
    write_table(folder, "test", [0, 1, 2])
    return r"{folder}/train\.parquet: cannot be read as Parquet \(.*\); fetch it again"


@pytest.mark.parametrize("write", [out_of_range, negative, corrupt, empty, no_tables])
def test_tables_that_cannot_be_trained_on_are_named_by_file_and_row(
    write: Callable[[Path], str], data_folder: Path
) -> None:
    message = write(data_folder).replace("{folder}", re.escape(str(data_folder)))
    refused = refusal("--space", DIGITS, "--set", "data.name=parquet", "--set", f"data.root={data_folder}")
    assert re.match(f"{re.escape(DIGITS)}: {message}", refused)


def write_folders(folder: Path, side: int) -> None:
    for part, number in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for image in range(number):
                (folder / part / name / f"{image}.png").write_bytes(png(side, image))


def of_folders(data_folder: Path, **options: Any) -> list[str]:
    settings = {"data.name": "folder", "data.root": data_folder, **options}
    return ["--space", DIGITS, *(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))]


def test_a_folder_of_images_that_is_absent_or_empty_is_named(data_folder: Path) -> None:
    assert re.search(
        rf"{data_folder}: must hold training and test images, got no training images; expected "
        r"train/<class>/\*\.png and test/<class>/\*\.png",
        refusal(*of_folders(data_folder)),
    )
    assert refusal(*of_folders(data_folder / "absent")) == (
        f"--set data.root={data_folder}/absent: data.root: must be a folder, got '{data_folder}/absent'; check the "
        f"path, on every node"
    )


def test_an_image_that_is_none_is_named_by_its_file(data_folder: Path) -> None:
    write_folders(data_folder, side=8)
    bad = data_folder / "train" / "dog" / "3.png"
    bad.write_bytes(b"no image")
    assert refusal(*of_folders(data_folder)) == f"{DIGITS}: {bad}: not an image of a known format; replace or remove it"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(data_folder: Path) -> None:
    write_folders(data_folder, side=8)
    (data_folder / "train" / "cat").chmod(0)
    try:
        assert re.search(
            rf"data: folder must be readable, got .*{data_folder}/train/cat", refusal(*of_folders(data_folder))
        )
    finally:
        (data_folder / "train" / "cat").chmod(0o755)


def test_a_network_without_a_site_is_refused(data_folder: Path) -> None:
    write_folders(data_folder, side=64)
    assert refusal(*of_folders(data_folder, **{"model.name": "torchvision:alexnet"})) == (
        "--set model.name=torchvision:alexnet: model.name: 'torchvision:alexnet' has no site, a convolution whose "
        "output a BatchNorm consumes, so there is nothing to graft; choose a convolutional network with BatchNorm"
    )


def test_a_network_that_cannot_take_the_images_is_refused() -> None:
    assert re.match(
        r"--set model.name=torchvision:alexnet: model.name: 'torchvision:alexnet' cannot take images of "
        r"shape \(3, 8, 8\): .*; choose a network made for this size, or larger images$",
        refusal("--space", DIGITS, "--set", "model.name=torchvision:alexnet"),
    )
