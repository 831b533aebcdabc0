"""The wheel, built from the sdist, works outside the checkout: it holds every module and data file; commands run."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "graftpop"):  # a copy: the build writes into its folder
        (source / name).symlink_to(ROOT / name)
    build = "from setuptools import build_meta; build_meta.build_sdist('..')"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build], cwd=source, check=True, timeout=60, capture_output=True
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        sdist.extractall(folder, filter="data")
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder)]
    unpacked = folder / archive.name.removesuffix(".tar.gz")
    subprocess.run([*pip_wheel, str(unpacked)], check=True, timeout=60, capture_output=True)
    return next(folder.glob("*.whl"))


def test_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    sources = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "graftpop").rglob("*")
        if file.suffix in (".py", ".css", ".html", ".js", ".typed")
    }
    spaces = {
        f"graftpop/{file.relative_to(ROOT)}"
        for file in (ROOT / "search_spaces").rglob("*")
        if file.suffix in (".yaml", ".json")
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("graftpop/")}
    assert held == sources | spaces


def test_commands_of_the_wheel_run_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    script = (
        "import sys\n"
        "from graftpop.__main__ import __file__, main\n"
        "print(__file__)\n"
        "for arguments in ('init --from digits', 'spaces', 'tune evidence/saturated --dry-run'):\n"
        "    sys.argv = ['graftpop', *arguments.split()]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as ended:\n"
        "        print('code', ended.code or 0, flush=True)\n"
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
    lines = ended.stdout.splitlines()
    assert lines[0].startswith(str(installed)), ended.stderr
    assert [line for line in lines if line.startswith("code ")] == ["code 0", "code 0", "code 2"]
    assert {line.split()[0] for line in lines} >= {"digits", "papers/clr_rnf", "evidence/saturated"}
    assert "population:" in (tmp_path / "space.yaml").read_text(encoding="utf-8")
    (error,) = ended.stderr.splitlines()  # its code is in a checkout only
    assert error.startswith("error: evidence/saturated: ")
