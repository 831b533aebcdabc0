"""The files in deploy/ are valid, and every cluster requires a token.

`ray-cluster.yaml` goes through Ray's own validator. `slurm.sh` runs with stand-ins for Slurm's commands, first on the
PATH, which print their arguments. The schema of KubeRay's RayJob is over a megabyte and is not kept here: when
`rayjob.yaml` was written, it was checked by jsonschema against the fields of KubeRay's Go types `RayJobSpec`,
`RayClusterSpec`, `HeadGroupSpec`, `WorkerGroupSpec` and `AuthOptions` (v1.6 API reference) with no others allowed, and
its pod templates against the strict schema of Kubernetes 1.37 (package kubernetes-validate). The tests below check
graftpop's own needs. `grafana-dashboard.json` went through Grafana's own types when it was written (package
grafana-foundation-sdk): they changed nothing but the fields of an import.
"""

import copy
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from graftpop.cluster.metrics import LABELS, METRICS, study_metrics, task_metrics
from graftpop.metrics import ACCURACY

OF_PEERS = {metric: text for metric, (_, text) in {**task_metrics([ACCURACY]), **METRICS}.items()}
OF_STUDY = study_metrics(ACCURACY)
EXPORTED = {**OF_STUDY, **OF_PEERS}

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def read(name: str) -> dict[str, Any]:
    content = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


@pytest.fixture
def rayjob() -> dict[str, Any]:
    return read("rayjob.yaml")


def pods(rayjob: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_ray_up_accepts_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = read("ray-cluster.yaml")
    validate_config(prepare_config(copy.deepcopy(cluster)))
    with pytest.raises(Exception, match="Additional properties are not allowed"):
        validate_config(cluster | {"worker_setup_comands": []})


def test_ray_start_requires_a_token_outside_the_file() -> None:
    cluster = read("ray-cluster.yaml")
    for kind in ("head", "worker"):
        starts = [line for line in cluster[f"{kind}_start_ray_commands"] if "ray start" in line]
        assert len(starts) == 1
        assert "export RAY_AUTH_MODE=token" in starts[0]
    assert "RAY_AUTH_TOKEN=" not in str(cluster)


def test_kuberay_job_has_a_token_and_the_tested_ray_version(rayjob: dict[str, Any]) -> None:
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob")
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == version("ray")
    images = {container["image"] for pod in pods(rayjob) for container in pod["containers"]}
    assert len(images) == 1
    assert images.pop().endswith(f":{version('ray')}")


def test_kuberay_pods_mount_the_data_and_the_run_folder(rayjob: dict[str, Any]) -> None:
    words = rayjob["spec"]["entrypoint"].split()
    out = Path(words[words.index("--out") + 1])
    for pod in pods(rayjob):
        claims = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
        assert len(claims) == 2
        for container in pod["containers"]:
            mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert mounted[str(out.parent)] in claims
            places = {entry["name"]: entry["value"] for entry in container["env"]}
            assert mounted[places["GRAFTPOP_DATA"]] in claims


def test_kuberay_entrypoint_names_an_existing_space(rayjob: dict[str, Any]) -> None:
    words = rayjob["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "graftpop.tune"]
    assert (ROOT / Path(words[words.index("--space") + 1]).relative_to("/app")).exists()
    assert rayjob["spec"]["backoffLimit"] == 0  # a second start into the same folder is refused


def write_command(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/bash\n{script}\n")
    file.chmod(0o755)


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of the first of three machines, whose own name resolves to its loopback first."""
    write_command(tmp_path, "scontrol", 'echo "node-1"; echo "node-2"; echo "node-3"')
    write_command(tmp_path, "getent", 'echo "127.0.1.1 STREAM node-1"; echo "10.0.0.1 STREAM"')
    write_command(tmp_path, "srun", 'printf "%s\\n" "$RAY_AUTH_MODE" "$RAY_AUTH_TOKEN" "$@"')
    return os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "4711",
        "SLURM_NNODES": "3",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_JOB_NODELIST": "node-[1-3]",
        "HOME": str(tmp_path),
    }


def submit(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(DEPLOY / "slurm.sh"), *arguments],
        env=environment,
        cwd=environment["HOME"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_slurm_starts_one_cluster_with_a_new_token(slurm: dict[str, str]) -> None:
    done = submit(slurm, "digits.yaml", "/shared/run", "--set", "tune.num_samples=4")
    assert done.returncode == 0, done.stderr
    mode, token, *words = done.stdout.splitlines()
    assert mode == "token"
    assert len(bytes.fromhex(token)) == 32
    assert token not in words
    assert words[words.index("--address") + 1] == "10.0.0.1:24711"
    assert words[words.index("--min-nodes") + 1] == "3"
    assert words[words.index("--") + 1 :] == [
        "python",
        "-m",
        "graftpop.tune",
        "--space",
        "digits.yaml",
        "--out",
        "/shared/run",
        "--address",
        "auto",
        "--set",
        "tune.num_samples=4",
    ]
    again = submit(slurm, "digits.yaml", "/shared/run").stdout.splitlines()
    assert again[1] != token


def test_slurm_falls_back_to_the_first_address(slurm: dict[str, str]) -> None:
    folder = Path(slurm["HOME"])
    write_command(folder, "getent", 'echo "127.0.1.1 STREAM node-1"; exit 2')
    write_command(folder, "hostname", 'echo "10.0.0.7 192.0.2.7 "')
    words = submit(slurm, "digits.yaml", "/shared/run").stdout.splitlines()
    assert words[words.index("--address") + 1] == "10.0.0.7:24711"


def test_slurm_names_the_missing_argument(slurm: dict[str, str]) -> None:
    done = submit(slurm, "digits.yaml")
    assert done.returncode != 0
    assert "OUT is missing" in done.stderr


# monitoring


@pytest.fixture
def dashboard() -> dict[str, Any]:
    content = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def names(text: str) -> list[str]:
    """Return the metrics named in a text, without Ray's prefix."""
    return re.findall(r"\bray_(graftpop_\w+)", text)


def test_grafana_dashboard_has_one_panel_per_metric(dashboard: dict[str, Any]) -> None:
    assert sorted(names(json.dumps(dashboard["panels"]))) == sorted(EXPORTED)
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        (target,) = panel["targets"]
        (metric,) = names(target["expr"])
        assert panel["description"] == f"{EXPORTED[metric]}."
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert (target["legendFormat"] == "{{trial}}/peer-{{peer}}") == (metric in OF_PEERS)
        for label in LABELS if metric in OF_PEERS else LABELS[:1]:  # filtered by the variable of its name
            assert re.search(rf'\b{label}=~?"\${label}"', target["expr"])
    assert set(names(json.dumps(dashboard["templating"]))) <= EXPORTED.keys()


def test_grafana_dashboard_uses_the_chosen_prometheus_only(dashboard: dict[str, Any]) -> None:
    assert [(field["name"], field["pluginId"]) for field in dashboard["__inputs"]] == [("DS_PROMETHEUS", "prometheus")]
    source, *variables = dashboard["templating"]["list"]
    assert (source["name"], source["type"], source["current"]["value"]) == (
        "datasource",
        "datasource",
        "${DS_PROMETHEUS}",
    )
    assert [variable["name"] for variable in variables] == list(LABELS)
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    targets = [target for panel in panels for target in panel["targets"]]
    assert {part["datasource"]["uid"] for part in (*variables, *panels, *targets)} == {"${datasource}"}


def test_rows_and_panels_of_the_dashboard_do_not_overlap(dashboard: dict[str, Any]) -> None:
    cells = Counter(
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    )
    assert max(cells.values()) == 1
    assert [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"] == ["Study", "Peers"]


def missing(wanted: Any, read: Any, where: str = "") -> Iterator[str]:
    """Yield the places of a tree that are missing in another, which may have more keys."""
    if isinstance(wanted, dict) and isinstance(read, dict):
        for key, value in wanted.items():
            yield from missing(value, read[key], f"{where}.{key}") if key in read else [f"{where}.{key}"]
    elif isinstance(wanted, list) and isinstance(read, list) and len(wanted) == len(read):
        for index, (value, other) in enumerate(zip(wanted, read, strict=True)):
            yield from missing(value, other, f"{where}[{index}]")
    elif wanted != read:
        yield where


def test_grafanas_model_reads_the_whole_dashboard(dashboard: dict[str, Any]) -> None:
    register_default_plugins()
    read = json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder))
    of_the_import = {"__inputs", "__requires", "id"}  # fields of the import form, absent in the imported dashboard
    assert Counter(panel["type"] for panel in read["panels"]) == {"row": 2, "timeseries": len(EXPORTED)}
    lost = list(missing({key: value for key, value in dashboard.items() if key not in of_the_import}, read))
    assert not lost, lost


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `ray_graftpop_")]
    assert sorted(names("".join(row[1] for row in rows))) == sorted(EXPORTED)
    assert all(cell.strip() for row in rows for cell in row[1:4])


def test_prometheus_accepts_its_configuration() -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("there is no `promtool` here; on Debian: apt-get install prometheus")
    done = subprocess.run(
        [program, "check", "config", str(DEPLOY / "prometheus.yml")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_image_copies_files_that_its_context_has() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = {source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] == "!"}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)
    assert {"constraints.txt", "graftpop", "search_spaces"} <= copied
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (ROOT / ".devcontainer" / container["build"]["context"]).resolve() == ROOT
