"""The built wheel works outside the checkout: it holds every module and data file, and its commands run."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "graftpop",
    ):  # a copy: the build writes into the sources' folder
        (source / name).symlink_to(ROOT / name)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "-q",
            "-w",
            str(folder),
            str(source),
        ],
        check=True,
        timeout=60,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    sources = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "graftpop").rglob("*")
        if file.suffix in (".py", ".css", ".html", ".js", ".typed")
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("graftpop/")}
    assert held == sources


def test_commands_of_the_wheel_run_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    script = (
        "import graftpop, runpy, sys\n"
        "print(graftpop.__file__)\n"
        "sys.argv = ['graftpop', 'init', 'space.yaml']\n"
        "runpy.run_module('graftpop', run_name='__main__')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(str(installed))
    assert (tmp_path / "space.yaml").is_file()
