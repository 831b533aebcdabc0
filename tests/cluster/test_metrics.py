"""Metrics as exported by Ray, and in a real Prometheus after a study."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import ray

from graftpop.cluster import metrics
from graftpop.cluster.metrics import METRICS, STATUSES, MetricsExport, peer_metrics
from graftpop.metrics import ACCURACY
from graftpop.population import Round
from graftpop.study.trials import Trial

ROOT = Path(__file__).parents[2]
SPACE = """
name: watched
data: {name: digits}
model: {name: resnet8}
training: {epochs: 12, batch_size: 64}
population: {num_peers: {grid: [2, 3]}}
graft: {A: 0.4}
tune: {sampler: grid}
"""
ray_test = pytest.mark.ray


# one round


def round_of(*peers: Any, **grafts: list[Any]) -> Round:
    return Round(3, False, list(peers), grafts)


def test_round_gives_metrics_mean_alpha_and_staleness_per_peer() -> None:
    done = round_of(
        {"peer": 0, "val_accuracy": 0.5, "lr": 0.1},
        {"peer": 1, "val_accuracy": 0.25, "lr": 0.1},
        receiver=[1, 1, 0, 0],
        alpha=[0.5, 0.75, 0.25, 0.5],
        staleness=[2, 2, -1, -1],
        site=[*"abab"],
    )
    assert json.loads(peer_metrics(done, {1: 4}, [ACCURACY])) == [
        {"peer": 0, "val_accuracy": 0.5, "mean_alpha": 0.375, "num_restarts": 0, "staleness": -1},
        {"peer": 1, "val_accuracy": 0.25, "mean_alpha": 0.625, "num_restarts": 4, "staleness": 2},
    ]


def test_round_without_exchange_has_no_alpha_or_staleness() -> None:
    assert json.loads(peer_metrics(round_of({"peer": 0, "val_loss": 1.5}), {}, [ACCURACY])) == [
        {"peer": 0, "val_loss": 1.5, "num_restarts": 0}
    ]


# Ray's metrics agent


DROPPED_AFTER_S = 8.0
"""Time after which `scraped_ray` drops a value that is not set again; 20 s by default."""


@pytest.fixture(scope="module")
def scraped_ray() -> Iterator[None]:
    """A Ray that exports every second. Studies do not share it: they would wait for the next scrape after this one."""
    with pytest.MonkeyPatch.context() as environment:  # of the node's agent, which ignores _system_config
        environment.setenv("RAY_metrics_report_interval_ms", f"{1000 * DROPPED_AFTER_S / 2:.0f}")
        ray.init(
            "local",
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            _system_config={"metrics_report_interval_ms": 1000},
        )
    yield
    ray.shutdown()


def exported(metric: str, study: str, by: Sequence[str] = ("trial", "peer")) -> dict[tuple[str, ...], float]:
    """Return a metric's values on the driver's node, by some of its labels."""
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    values = {}
    for line in lines:
        if line.startswith(f"ray_{metric}{{") and f'study="{study}"' in line:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            values[tuple(labels[name] for name in by)] = float(line.rsplit(" ", 1)[1])
    return values


def wait_until_exported(
    export: MetricsExport,
    metric: str,
    study: str,
    expected: Mapping[tuple[str, ...], float],
    by: Sequence[str] = ("trial", "peer"),
) -> None:
    """Call the export as Tune does until a metric has exactly the expected values."""
    deadline = time.monotonic() + 60.0
    while (found := exported(metric, study, by)) != expected:
        assert time.monotonic() < deadline, f"not exported within 60 s: {expected}, but {found}"
        export.on_step_begin(0, [])
        time.sleep(0.5)


@ray_test
@pytest.mark.timeout(120)
def test_values_are_exported_until_their_trial_ends(scraped_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SHOWN_AFTER_END_S", 1.0)
    export, metric = MetricsExport("slow", [ACCURACY]), "graftpop_val_loss_nats"
    export.take("00000", '[{"peer": 0, "val_loss": 0.5}]')
    export.take("00001", '[{"peer": 0, "val_loss": 2.5, "mean_alpha": 0.25}]')
    wait_until_exported(export, metric, "slow", {("00000", "0"): 0.5, ("00001", "0"): 2.5})
    export.end("00000")
    start = time.monotonic()
    wait_until_exported(export, metric, "slow", {("00001", "0"): 2.5})
    while time.monotonic() - start < DROPPED_AFTER_S + 2.0:
        export.on_step_begin(0, [])
        time.sleep(0.5)
    assert exported(metric, "slow") == {("00001", "0"): 2.5}
    export.take("00001", '[{"peer": 0, "val_loss": 1.5}]')
    wait_until_exported(export, metric, "slow", {("00001", "0"): 1.5})
    assert exported("graftpop_mean_alpha_ratio", "slow") == {("00001", "0"): 0.25}


@ray_test
def test_study_exports_its_trials_by_status_and_its_best_score(scraped_ray: None) -> None:
    export = MetricsExport("whole", [ACCURACY])
    results = [("completed", 0.5), ("completed", 0.25), ("running", 0.75), ("failed", 0.1)]
    export.watch(
        [
            Trial(f"{number:05}", number, {}, 4, status, {"val_accuracy": score})
            for number, (status, score) in enumerate(results)
        ]
    )
    counts = {"completed": 2.0, "running": 1.0, "failed": 1.0}
    expected: dict[tuple[str, ...], float] = {(status,): counts.get(status, 0.0) for status in STATUSES}
    wait_until_exported(export, "graftpop_trials", "whole", expected, ["status"])
    wait_until_exported(export, "graftpop_best_val_accuracy_ratio", "whole", {("whole",): 0.5}, ["study"])


@ray_test
def test_study_with_a_name_beyond_ascii_keeps_its_metrics(scraped_ray: None, caplog: pytest.LogCaptureFixture) -> None:
    export, metric = MetricsExport("größe 1", [ACCURACY]), "graftpop_val_loss_nats"
    export.take("00000", '[{"peer": 0, "val_loss": 0.5}]')
    wait_until_exported(export, metric, "gr%C3%B6%C3%9Fe 1", {("00000", "0"): 0.5})
    assert caplog.messages == []


@ray_test
def test_invalid_value_is_logged_once_and_the_others_are_exported(
    scraped_ray: None, caplog: pytest.LogCaptureFixture
) -> None:
    export = MetricsExport("faulty", [ACCURACY])
    export.take("00000", '[{"peer": 0, "train_loss": "none", "val_loss": 0.5}]')
    export.set()
    export.set()
    (record,) = caplog.records
    assert "train_loss of peer 0" in record.getMessage()
    wait_until_exported(export, "graftpop_val_loss_nats", "faulty", {("00000", "0"): 0.5})


LARGE = """
import json, logging, sys
import ray
from graftpop.cluster.metrics import MetricsExport
from graftpop.metrics import ACCURACY
from test_metrics import wait_until_exported

ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
         _system_config={"metrics_report_interval_ms": 1000})
export = MetricsExport("large", [ACCURACY])
for number in range(260):
    export.take(f"{number:05}", json.dumps([{"peer": peer, "num_restarts": number} for peer in range(8)]))
places = [(f"{number:05}", str(peer)) for number in range(260) for peer in range(8)]
wait_until_exported(export, "graftpop_restarts", "large", {place: float(place[0]) for place in places[:1990]})
"""


@ray_test
@pytest.mark.timeout(120)
def test_peers_beyond_rays_limit_are_logged_and_left_out() -> None:
    """Needs its own process: Ray counts every label set that it ever exported."""
    paths = os.pathsep.join((str(ROOT), str(Path(__file__).parent), str(ROOT / "tests" / "support")))
    done = subprocess.run(
        [sys.executable, "-c", LARGE],
        env=os.environ | {"PYTHONPATH": paths},
        timeout=100,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("1990 peers") == 1


# Prometheus


def free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A folder for a separate Ray; it holds sockets, whose paths must be short."""
    with tempfile.TemporaryDirectory(prefix="graftpop-") as folder:
        yield Path(folder)


@pytest.fixture
def prometheus(ray_folder: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a Prometheus with the configuration of deploy/, changed to this test's Ray."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("there is no `prometheus` here; on Debian: apt-get install prometheus")
    shipped = (ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8")
    assert "/tmp/ray/" in shipped
    config, address = tmp_path / "prometheus.yml", f"127.0.0.1:{free_port()}"
    config.write_text(shipped.replace("/tmp/ray/", f"{ray_folder}/ray/"), encoding="utf-8")
    with subprocess.Popen(
        [
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'series'}",
            f"--web.listen-address={address}",
        ],
        stderr=subprocess.DEVNULL,
    ) as process:
        yield f"http://{address}"
        process.terminate()


def dashboard_queries() -> dict[str, str]:
    """Return the queries of the panels of deploy/grafana-dashboard.json, by metric."""
    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return {metric: expression for metric in METRICS for expression in expressions if f"ray_{metric}{{" in expression}


def last_values(prometheus: str, query: str, since: float) -> dict[tuple[str, int], float]:
    """Return a query's last value since a time by trial and peer, as a panel of Grafana requests it."""
    options = urllib.parse.urlencode({"query": query, "start": since, "end": time.time(), "step": 1})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{options}", timeout=10) as answer:
        series = json.load(answer)["data"]["result"]
    assert all(one["metric"].keys() == {"study", "trial", "peer"} for one in series)
    return {(one["metric"]["trial"], int(one["metric"]["peer"])): float(one["values"][-1][1]) for one in series}


def kill_one_peer(study: "subprocess.Popen[str]", run: Path) -> None:
    """Kill a second peer's process during a call, once two rounds are recorded."""
    records, deadline = run / "tune/records/00000.rounds.parquet", time.monotonic() + 60.0
    while True:
        assert time.monotonic() < deadline, "no second peer was at work after two rounds within 60 s"
        assert study.poll() is None, study.communicate()
        if records.exists() and pq.read_table(records).num_rows >= 4:
            for process in psutil.Process(study.pid).children(recursive=True):
                with suppress(psutil.Error):  # it has ended meanwhile
                    if "00000/peer-1." in " ".join(process.cmdline()):
                        process.kill()
                        return
        time.sleep(0.05)


def recorded(run: Path) -> dict[str, dict[tuple[str, int], float]]:
    """Return the last recorded value by metric, trial and peer."""
    rounds, grafts, events = (
        pq.read_table(run / f"{name}.parquet").to_pylist() for name in ("rounds", "grafts", "events")
    )
    last = {(row["trial_id"], row["peer"]): row for row in rounds}
    lost = Counter((event["trial_id"], event["peer"]) for event in events if event["event"] == "lost")
    taken: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in grafts:
        sites = taken.setdefault((row["trial_id"], row["receiver"]), [])
        sites[:] = [*(site for site in sites if site["round"] == row["round"]), row]
    of_rounds = {
        metric: {place: float(row[column]) for place, row in last.items()}
        for metric, (column, _) in METRICS.items()
        if column in rounds[0]
    }
    return of_rounds | {
        "graftpop_mean_alpha_ratio": {
            place: sum(site["alpha"] for site in sites) / len(sites) for place, sites in taken.items()
        },
        "graftpop_staleness_rounds": {place: float(sites[-1]["staleness"]) for place, sites in taken.items()},
        "graftpop_restarts": {place: float(lost[place]) for place in last},
    }


@ray_test
@pytest.mark.timeout(240)
def test_prometheus_has_the_recorded_value_of_every_metric(prometheus: str, ray_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    run, since = tmp_path / "watched", time.time()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(ray_folder)}
    with subprocess.Popen(
        [sys.executable, "-m", "graftpop.tune", "--space", "space.yaml", "--out", str(run)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as study:
        kill_one_peer(study, run)
        output, errors = study.communicate(timeout=150)
    assert study.returncode == 0, errors
    assert re.search(r"trial 0  round \d+: peer 1 replaced after", output)
    expected, queries = recorded(run), dashboard_queries()
    assert expected.keys() == queries.keys() == METRICS.keys()
    assert sum(expected["graftpop_restarts"].values()) == 1.0
    for metric, query in queries.items():
        shown = query.replace("$study", "watched").replace("$trial", ".*").replace("$peer", ".*")
        assert last_values(prometheus, shown, since) == pytest.approx(expected[metric], rel=1e-12), metric
