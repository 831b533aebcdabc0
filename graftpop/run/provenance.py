"""Provenance of a run, for `run.json`: command, versions, commit and hardware."""

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from graftpop.errors import one_line
from graftpop.masking import masked
from graftpop.run.run_folder import RunFolder

__all__ = ["hardware_text", "read_provenance", "run_provenance", "utc_now"]

logger = logging.getLogger("graftpop")

PACKAGES = ("graftpop", "ray", "torch", "torchvision", "optuna", "pyarrow", "numpy")


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def run_provenance(arguments: list[str], seed: int) -> dict[str, Any]:
    """Return command, seed, versions, commit and hardware of a run, as JSON values.

    Args:
        arguments: arguments of the command line, of `graftpop` or of `python -m graftpop.tune`. The record has the
            latter's, with the secrets of URLs masked.
        seed: seed of the study.
    """
    import torch

    from graftpop.training.precision import training_dtype

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options = arguments[1:] if arguments[:1] == ["tune"] else arguments  # `graftpop tune` has its name before them
    return {
        "command": ["python", "-m", "graftpop.tune", *map(masked, options)],
        "seed": seed,
        "started": utc_now().isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "git": _git_commit(),
        "hardware": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
            "auto_precision": str(training_dtype("auto", device)).removeprefix("torch."),
        },
        "platform": f"{sys.platform} {platform.machine()}",
    }


class _Hardware(BaseModel):
    processor: str
    cores: int
    gpus: list[str]


class _Provenance(BaseModel):
    """The entries of `run.json` that readers rely on."""

    command: list[str]
    started: str
    versions: dict[str, str | None]
    hardware: _Hardware


def read_provenance(folder: RunFolder) -> dict[str, Any]:
    """Return the content of `run.json`; an empty one, with a warning, if it is absent or damaged.

    The content only informs people; no result depends on it.
    """
    where = f"{folder.shown}/run.json"
    try:
        text = folder.read_text("run.json")
        _Provenance.model_validate_json(text)
    except FileNotFoundError:
        problem = "absent"
    except UnicodeDecodeError:
        problem = "damaged: not UTF-8"
    except ValidationError as error:
        problem = f"damaged: {one_line(error.errors()[0]['msg'])}"
    else:
        content: dict[str, Any] = json.loads(text)
        return content
    logger.warning("%s: %s, so the run's command, versions and hardware are unknown; all else works", where, problem)
    return {}


def hardware_text(provenance: Mapping[str, Any]) -> str:
    """Return the hardware of a run in words; an empty string if it is unknown."""
    if not (hardware := provenance.get("hardware")):
        return ""
    return ", ".join([f"{hardware['cores']} cores of {hardware['processor']}", *hardware["gpus"]])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is not installed
        return None


def _git_commit() -> dict[str, Any] | None:
    """Return the commit of this package and whether its files differ from it; None outside a repository."""
    package = Path(__file__).resolve().parents[1]
    commands = (
        ("rev-parse", "HEAD"),
        ("status", "--porcelain", "--", str(package)),
        ("ls-files", "--error-unmatch", "__init__.py"),
    )  # the last one fails where the package is installed inside another repository
    try:
        commit, status, _ = (
            subprocess.run(
                ["git", "-C", str(package), *command], capture_output=True, text=True, timeout=10, check=True
            )
            for command in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
