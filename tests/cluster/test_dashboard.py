"""Ray's dashboard during a run, in a real browser: its printed address and the names of the actors."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import browser

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

TOKEN = "0123456789abcdef" * 4
SPACE = """
name: watched
data: {name: digits}
model: {name: resnet8}
training: {epochs: 2000, batch_size: 64}
population: {num_peers: 2}
tune: {num_samples: 1}
graft: {A: 0.4}
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A study that runs until the test ends."""
    (tmp_path / "space.yaml").write_text(SPACE)
    with tempfile.TemporaryDirectory(prefix="graftpop-") as folder:  # for sockets, whose paths must be short
        environment = os.environ | {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "RAY_TMPDIR": folder,
            "RAY_AUTH_TOKEN": TOKEN,
            "PYTHONUNBUFFERED": "1",
        }
        with subprocess.Popen(
            [sys.executable, "-m", "graftpop.tune", "--space", "space.yaml", "--out", "run"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            yield process
            process.kill()


def test_dashboard_at_printed_address_names_all_actors(run: "subprocess.Popen[str]", tmp_path: Path) -> None:
    from playwright.sync_api import expect

    assert run.stdout is not None
    first = re.match(r"dashboard +(http://\S+)  \(it asks for a token: ray get-auth-token\)", run.stdout.readline())
    assert first is not None
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(f"{first[1]}/#/actors")
        page.get_by_role("dialog").get_by_role("textbox").fill(TOKEN)
        page.get_by_role("dialog").get_by_role("button", name="Submit").click()
        for name in ("watched/population", "watched/peer-0", "watched/peer-1"):
            expect(page.get_by_role("cell", name=name, exact=True)).to_be_visible(timeout=60_000)
        page.screenshot(path=tmp_path / "actors.png", full_page=True)
