"""Metrics of a study and of its peers through Ray, for Prometheus to scrape on the driver's node.

The driver sets all gauges, because it gets the results of every round and outlives the peers' processes. Observed on
Ray 2.60:

- A process exports a gauge's value once, within 10 s, and its node's agent shows it for 20 s. So values are set
  repeatedly while their trial runs, and for a while after it.
- The agent shows the first 2000 label sets of a metric and merges all later ones into one, and a process exports at
  most as many (OpenTelemetry's limits). So a study exports at most `MOST_PEERS` peers and warns about the others,
  instead of showing wrong values.
- The agent of a cluster that was started for a study ends with it. So a scraped study waits for its last scrape.
"""

import json
import logging
import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any, Final
from urllib.parse import quote

import psutil
import ray
from ray.exceptions import RayError
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.util.metrics import Gauge

from graftpop.metrics import Metric
from graftpop.population import Round
from graftpop.study.trials import Trial, best_trial

__all__ = ["LABELS", "METRICS", "STATUSES", "MetricsExport", "peer_metrics", "study_metrics", "task_metrics"]

LABELS: Final = ("study", "trial", "peer")
METRICS: Final[Mapping[str, tuple[str, str]]] = {
    "graftpop_train_loss_nats": ("train_loss", "Mean training loss of the round's last epoch"),
    "graftpop_val_loss_nats": ("val_loss", "Mean loss on the validation split"),
    "graftpop_invalid_filters": ("num_invalid_filters", "Filters whose L1 norm is below the threshold"),
    "graftpop_mean_entropy_nats": ("mean_entropy_nats", "Mean entropy of the sites' weights"),
    "graftpop_mean_alpha_ratio": ("mean_alpha", "Share of its own weights kept in the last exchange, mean over sites"),
    "graftpop_images_per_second": ("images_per_s", "Training speed in images per second"),
    "graftpop_exchange_seconds": ("exchange_s", "Duration of the round's exchange, 0 without one"),
    "graftpop_restarts": ("num_restarts", "Replacements since the trial started"),
    "graftpop_staleness_rounds": ("staleness", "Age of the last received snapshot in rounds, relative to the receiver"),
}
"""Column of a peer's figures and description of each metric. Ray prefixes the names with `ray_`."""


def task_metrics(metrics: Sequence[Metric]) -> dict[str, tuple[str, str]]:
    """Return the exported metrics of a task in the form of `METRICS`: `graftpop_val_accuracy_ratio` for accuracy."""
    return {
        f"graftpop_{metric.val}{'_ratio' * metric.is_share}": (
            metric.val,
            f"{metric.title} on the validation split{', from 0 to 1' * metric.is_share}",
        )
        for metric in metrics
    }


STATUSES: Final = ("pending", "running", "completed", "stopped", "failed", "interrupted")


def study_metrics(primary: Metric) -> dict[str, str]:
    """Return the description of each metric of a study: the number of trials by status, and the best trial's score."""
    return {
        "graftpop_trials": "Trials by status",
        f"graftpop_best_{primary.val}{'_ratio' * primary.is_share}": (
            f"{primary.title} of the best trial on the validation split{', from 0 to 1' * primary.is_share}"
        ),
    }


SECONDS_BETWEEN_SETS = 5.0
SHOWN_AFTER_END_S = 120.0
"""Seconds for which values are set after their trial's end: twice the longest usual scrape interval."""

MOST_PEERS = 1990
"""Largest number of exported peers of a study, over all its trials."""

EXPORT_S = 11.0
"""Seconds until a set value is shown."""

SCRAPE_TIMEOUT_S = EXPORT_S + 60.0

logger = logging.getLogger("graftpop")


def peer_metrics(done: Round, num_restarts: Mapping[int, int], metrics: Sequence[Metric]) -> str:
    """Return each peer's exported figures after a round as JSON text, because Tune's loggers would also log numbers.

    Args:
        done: the round.
        num_restarts: number of replacements by peer.
        metrics: metrics of the task.
    """
    alphas: defaultdict[int, list[float]] = defaultdict(list)
    staleness: dict[int, int] = {}
    for place, receiver in enumerate(done.grafts.get("receiver", [])):
        alphas[receiver].append(done.grafts["alpha"][place])
        staleness[receiver] = done.grafts["staleness"][place]  # the same for all sites
    columns = ("peer", *(column for column, _ in {**METRICS, **task_metrics(metrics)}.values()))
    rows = []
    for row in done.peers:
        peer = row["peer"]
        figures = {**row, "num_restarts": num_restarts.get(peer, 0)}
        if peer in staleness:
            figures |= {"mean_alpha": fmean(alphas[peer]), "staleness": staleness[peer]}
        rows.append({column: figures[column] for column in columns if figures.get(column) is not None})
    return json.dumps(rows)


class MetricsExport(Callback):
    """A Tune callback that exports the newest figures of a study and of all its peers.

    It is best effort: the first failure is logged, and no trial waits for it.

    Args:
        study: value of the label `study`; Ray exports ASCII only, so other characters are percent-encoded as in a URL.
        metrics: metrics of the task.
    """

    def __init__(self, study: str, metrics: Sequence[Metric]) -> None:
        self._study = re.sub("[^ -~]", lambda character: quote(character[0]), study)
        exported = {**METRICS, **task_metrics(metrics)}
        self._gauges = {column: Gauge(name, text, LABELS) for name, (column, text) in exported.items()}
        numbers, best = study_metrics(metrics[0]).items()
        self._trials_gauge, self._best_gauge = Gauge(*numbers, ("study", "status")), Gauge(*best, ("study",))
        self._primary = metrics[0]
        self._trials: list[Trial] = []
        self._rows: dict[str, dict[int, dict[str, Any]]] = {}  # by trial and peer
        self._ended_at: dict[str, float] = {}
        self._peers: set[tuple[str, int]] = set()
        self._set_at = -math.inf
        self._has_logged = False

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """Record a trial's report."""
        self.take(_id_of(trial), result["figures"])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Record the end of a trial."""
        self.end(_id_of(trial))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Record the end of a trial."""
        self.end(_id_of(trial))

    def on_step_begin(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Set all values, at most every few seconds."""
        if time.monotonic() - self._set_at > SECONDS_BETWEEN_SETS:
            self.set()

    def watch(self, trials: list[Trial]) -> None:
        """Record all trials of the study."""
        self._trials = trials

    def take(self, trial_id: str, figures: str) -> None:
        """Record the result of `peer_metrics`; figures absent from it keep their last value."""
        self._ended_at.pop(trial_id, None)
        rows = self._rows.setdefault(trial_id, {})
        for row in json.loads(figures or "[]"):
            rows[row["peer"]] = {**rows.get(row["peer"], {}), **row}

    def end(self, trial_id: str) -> None:
        """Record the end of a trial, whose values are shown for a while longer."""
        self._ended_at[trial_id] = time.monotonic()

    def set(self) -> None:
        """Set the values of the study, and of running and recently ended trials."""
        now = self._set_at = time.monotonic()
        self._set_study()
        self._rows = {
            trial_id: rows
            for trial_id, rows in self._rows.items()
            if now - self._ended_at.get(trial_id, now) < SHOWN_AFTER_END_S
        }
        for trial_id, rows in self._rows.items():
            for peer, row in rows.items():
                if len(self._peers) < MOST_PEERS:
                    self._peers.add((trial_id, peer))
                if (trial_id, peer) in self._peers:
                    self._set_peer({"study": self._study, "trial": trial_id, "peer": str(peer)}, row)
                else:
                    self._log(f"Ray shows {MOST_PEERS} peers only; rounds.parquet has all")

    def _set_study(self) -> None:
        counts = Counter(trial.status for trial in self._trials)
        for status in STATUSES:
            self._trials_gauge.set(counts[status], {"study": self._study, "status": status})
        if best := best_trial(self._trials, self._primary):
            self._best_gauge.set(best.result[self._primary.val], {"study": self._study})

    def _set_peer(self, labels: dict[str, str], row: Mapping[str, Any]) -> None:
        for column, gauge in self._gauges.items():
            if column in row:
                try:
                    gauge.set(row[column], labels)
                except (TypeError, ValueError) as error:
                    self._log(f"{column} of peer {labels['peer']} cannot be exported: {error}")

    def _log(self, reason: str) -> None:
        if not self._has_logged:
            logger.warning("metrics: %s", reason)
        self._has_logged = True

    def finish(self) -> None:
        """Set the last values; if this node is scraped, wait for the next scrape or Ctrl-C."""
        self.set()
        try:
            if self._rows and _scrapes():
                logger.warning("metrics: waiting until the last values are scraped; Ctrl-C ends the wait")
                with suppress(KeyboardInterrupt):
                    self._wait_for_scrape()
        except (RayError, psutil.Error, OSError) as error:
            self._log(f"cannot tell whether they are scraped, so the study does not wait: {error}")

    def _wait_for_scrape(self) -> None:
        start, before = time.monotonic(), set[Any]()
        while (waited_s := time.monotonic() - start) < SCRAPE_TIMEOUT_S:
            scrapes = _scrapes()
            if waited_s < EXPORT_S:
                before |= scrapes
            elif scrapes - before:
                return
            self.on_step_begin(0, [])
            time.sleep(0.2)


def _id_of(trial: TuneTrial) -> str:
    """Return a trial's ID from its folder; under PBT its configuration may hold another trial's ID."""
    return Path(str(trial.local_path)).name


def _scrapes() -> set[Any]:
    """Return the connections to this node's metrics port in the last minute, one per scrape.

    Linux keeps ended connections for that long.
    """
    here = ray.get_runtime_context().get_node_id()
    ports = {node["MetricsExportPort"] for node in ray.nodes() if node["NodeID"] == here}
    return {
        connection.raddr
        for connection in psutil.net_connections("tcp")
        if connection.raddr and connection.laddr.port in ports
    }
