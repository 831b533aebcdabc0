"""A run on this machine: its dashboard in a real browser, and what other machines and users can reach."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from browser import browser

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

SPACE = """
name: watched
data: {name: digits, max_train_images: 100}
model: {name: "python:network_makers.Slow"}
training: {epochs: 2000, batch_size: 64}
population: {num_peers: 2}
tune: {num_samples: 1}
graft: {A: 0.4}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the study, which is also its user's home."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def run(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A study that runs until the tests end, of a user without a token whose files are readable by others."""
    (folder / "space.yaml").write_text(SPACE)
    with tempfile.TemporaryDirectory(prefix="graftpop-") as short:  # for sockets, whose paths must be short
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")} | {
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests" / "support"))),
            "RAY_TMPDIR": short,
            "HOME": str(folder),
            "PYTHONUNBUFFERED": "1",
        }
        with subprocess.Popen(
            [sys.executable, "-m", "graftpop.tune", "--space", "space.yaml", "--out", "run", "--show-token"],
            cwd=folder,
            env=environment,
            umask=0o022,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            yield process
            process.kill()


def test_dashboard_at_printed_address_names_the_job_and_all_actors(run: "subprocess.Popen[str]", folder: Path) -> None:
    from playwright.sync_api import expect

    assert run.stdout is not None
    line = next(line for line in run.stdout if line.startswith("dashboard "))
    printed = re.match(r"dashboard +(http://127.0.0.1:\d+)  \(it asks for a token: (\w+)\)", line)
    assert printed is not None
    token = printed[2]
    assert token == (folder / ".ray" / "auth_token").read_text()
    jobs = urllib.request.Request(f"{printed[1]}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(jobs, timeout=30) as answer:
        (job,) = json.load(answer)
    assert job["metadata"]["job_name"] == "watched"
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(f"{printed[1]}/#/actors")
        page.get_by_role("dialog").get_by_role("textbox").fill(token)
        page.get_by_role("dialog").get_by_role("button", name="Submit").click()
        for name in ("watched/population", "watched/peer-0", "watched/peer-1"):
            expect(page.get_by_role("cell", name=name, exact=True)).to_be_visible(timeout=60_000)
        page.screenshot(path=folder / "actors.png", full_page=True)


def test_other_machines_and_users_cannot_reach_a_local_study(run: "subprocess.Popen[str]", folder: Path) -> None:
    """Runs after the test above, when all processes listen."""
    listening = {
        (process.name(), socket_.laddr.ip.removeprefix("::ffff:"))
        for process in psutil.Process(run.pid).children(recursive=True)
        for socket_ in process.net_connections("inet")
        if socket_.status == psutil.CONN_LISTEN or socket_.type == socket.SOCK_DGRAM
    }
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    assert {address for _, address in listening} == {"127.0.0.1"}
    assert (folder / ".ray").stat().st_mode & 0o777 == 0o700
    assert (folder / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
