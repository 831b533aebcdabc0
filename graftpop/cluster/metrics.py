"""What peers reach as metrics of Ray, for Prometheus to scrape on the driver's node.

The driver hears of every round and lives as long as the study, while processes of peers come and go; so it sets all
gauges. What else was found on Ray 2.60:

- A process hands over once what a gauge was set to, within 10 s, and the agent of its node shows that for 20 s. So
  values are set again and again while their trial runs, and a while after it.
- The agent shows the first 2000 sets of labels of a metric, ever, and makes one of all that come later; a process hands
  over no more either (OpenTelemetry's limits). So a study sets no more, rather than wrong ones, and says so.
- The agent of a cluster that was started for a study ends with it. So a study that somebody scrapes waits for that.
"""

import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import psutil
import ray
from ray.exceptions import RayError
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.util.metrics import Gauge

from graftpop.population import Round
from graftpop.population.round import Row

__all__ = ["LABELS", "METRICS", "MetricsExport", "peer_metrics"]

LABELS: Final = ("study", "trial", "peer")
METRICS: Final[Mapping[str, tuple[str, str]]] = {
    "graftpop_val_accuracy_ratio": ("val_accuracy", "Accuracy on the validation split, from 0 to 1"),
    "graftpop_train_loss_nats": ("train_loss", "Mean training loss of the round's last epoch"),
    "graftpop_val_loss_nats": ("val_loss", "Mean cross entropy on the validation split"),
    "graftpop_invalid_filters": ("num_invalid_filters", "Filters whose L1 norm is below the threshold"),
    "graftpop_mean_entropy_nats": ("mean_entropy_nats", "Mean entropy of the sites' weights"),
    "graftpop_mean_alpha_ratio": ("mean_alpha", "Share of itself that it kept in its last exchange, mean over sites"),
    "graftpop_images_per_second": ("images_per_s", "Images that it trained on in a second"),
    "graftpop_exchange_seconds": ("exchange_s", "Time that the round's exchange took, 0 where there was none"),
    "graftpop_restarts": ("num_restarts", "How often it was lost and replaced since the trial began"),
    "graftpop_staleness_rounds": ("staleness", "How many rounds older than itself the snapshot was that it took last"),
}
"""Each metric with where its value stands among a peer's figures, and what it is. Ray puts `ray_` before the names."""

SECONDS_BETWEEN_SETS = 5.0
HELD_S = 120.0
"""How long values are set after the end of their trial: twice the longest time that is usual between scrapes."""

MOST_PEERS = 1990
"""Of all trials of a study together."""

HANDED_OVER_S = 11.0
"""After this what was set is shown."""

SCRAPE_LIMIT_S = HANDED_OVER_S + 60.0

logger = logging.getLogger("graftpop")


def peer_metrics(done: Round, num_restarts: Mapping[int, int]) -> str:
    """Return what is exported of each peer after a round, as text: loggers of Tune would take numbers for theirs.

    Args:
        done: the round.
        num_restarts: by peer, of those that were replaced.
    """
    alphas: defaultdict[int, list[float]] = defaultdict(list)
    staleness: dict[int, int] = {}
    for place, receiver in enumerate(done.grafts.get("receiver", [])):
        alphas[receiver].append(done.grafts["alpha"][place])
        staleness[receiver] = done.grafts["staleness"][place]  # the same for all sites
    columns = ("peer", *(column for column, _ in METRICS.values()))
    rows = []
    for row in done.peers:
        peer = row["peer"]
        figures = {**row, "num_restarts": num_restarts.get(peer, 0)}
        if peer in staleness:
            figures |= {"mean_alpha": fmean(alphas[peer]), "staleness": staleness[peer]}
        rows.append({column: figures[column] for column in columns if column in figures})
    return json.dumps(rows)


class MetricsExport(Callback):
    """Exports the newest figures of the peers of all trials, as Tune hears of them.

    It is best effort: what goes wrong is logged once, and no trial waits for it.

    Args:
        study: by which label its values are found.
    """

    def __init__(self, study: str) -> None:
        self._study = study
        self._gauges = {column: Gauge(name, text, LABELS) for name, (column, text) in METRICS.items()}
        self._rows: dict[str, dict[int, Row]] = {}  # by trial and peer
        self._ended_at: dict[str, float] = {}
        self._peers: set[tuple[str, int]] = set()
        self._set_at = -math.inf
        self._has_logged = False

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Take note of what a trial has reported."""
        self.take(_id_of(trial), result["figures"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Take note of the end of a trial."""
        self.end(_id_of(trial))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Take note of the end of a trial."""
        self.end(_id_of(trial))

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Set everything, now and then."""
        if time.monotonic() - self._set_at > SECONDS_BETWEEN_SETS:
            self.set()

    def take(self, trial_id: str, figures: str) -> None:
        """Take note of what `peer_metrics` gave of a round, if anything; what that does not tell stays."""
        self._ended_at.pop(trial_id, None)
        rows = self._rows.setdefault(trial_id, {})
        for row in json.loads(figures or "[]"):
            rows[row["peer"]] = {**rows.get(row["peer"], {}), **row}

    def end(self, trial_id: str) -> None:
        """Take note of the end of a trial: its values stay for a while."""
        self._ended_at[trial_id] = time.monotonic()

    def set(self) -> None:
        """Set what is known of the trials that run, or ran until a while ago."""
        now = self._set_at = time.monotonic()
        self._rows = {
            trial_id: rows for trial_id, rows in self._rows.items() if now - self._ended_at.get(trial_id, now) < HELD_S
        }
        for trial_id, rows in self._rows.items():
            for peer, row in rows.items():
                if len(self._peers) < MOST_PEERS:
                    self._peers.add((trial_id, peer))
                if (trial_id, peer) in self._peers:
                    self._set_peer({"study": self._study, "trial": trial_id, "peer": str(peer)}, row)
                else:
                    self._log(f"Ray shows those of {MOST_PEERS} peers only; rounds.parquet has all")

    def _set_peer(self, labels: dict[str, str], row: Row) -> None:
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
        """Set the last values; where somebody scrapes this node, wait until these were scraped, or for Ctrl-C."""
        self.set()
        try:
            if self._rows and _scrapes():
                logger.warning("metrics: waiting until the last values are scraped; Ctrl-C ends the wait")
                with suppress(KeyboardInterrupt):
                    self._wait_for_scrape()
        except (RayError, psutil.Error, OSError) as error:
            self._log(f"whether somebody scrapes them is not known: {error}")

    def _wait_for_scrape(self) -> None:
        start, before = time.monotonic(), set[Any]()
        while (waited_s := time.monotonic() - start) < SCRAPE_LIMIT_S:
            scrapes = _scrapes()
            if waited_s < HANDED_OVER_S:
                before |= scrapes
            elif scrapes - before:
                return
            self.on_step_begin(0, [])
            time.sleep(0.2)


def _id_of(trial: Trial) -> str:
    """Return a trial's number as its folder has it; under pbt its configuration may have another's."""
    return Path(str(trial.local_path)).name


def _scrapes() -> set[Any]:
    """Return by whom the metrics of this node were asked for in the last minute: each time is a connection of its own.

    Linux keeps connections for that long after their end.
    """
    here = ray.get_runtime_context().get_node_id()
    ports = {node["MetricsExportPort"] for node in ray.nodes() if node["NodeID"] == here}
    return {
        connection.raddr
        for connection in psutil.net_connections("tcp")
        if connection.raddr and connection.laddr.port in ports
    }
