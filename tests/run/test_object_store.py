"""A run in an object store: S3 and Google Cloud Storage, emulated by servers on this machine."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from guarded_database import PASSWORD

from graftpop.cli.study import new_run_folder, resume_study, start_study, starting_ray
from graftpop.errors import CheckpointError, StorageError
from graftpop.run.checkpoints import CheckpointMetadata, Checkpoints
from graftpop.run.record_files import TRIALS_PER_FOLD, RecordTable
from graftpop.run.run_folder import RunFolder
from graftpop.run.storage import Folder, retry_on_oserror
from graftpop.space import load_space

SCHEMA = pa.schema([("number", pa.int64())])
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

SPACE = """
name: stored
data: {name: digits, max_train_images: 200}
model: {name: resnet8}
training: {epochs: 3, batch_size: 128, precision: float32}
population: {num_peers: 2, peers_per_actor: 2}
graft: {A: {grid: [0.4]}}
tune: {sampler: grid}
"""


class Server:
    """An emulated object store, absent until it is started; its content is lost when it stops.

    Args:
        protocol: `s3` or `gs`.
    """

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]

    def start(self) -> None:
        """Start the server and create a bucket."""
        module, *options = {
            "s3": ["moto.server", "-H", "127.0.0.1", "-p", str(self._port)],
            "gs": ["gcp_storage_emulator", "start", "--host=127.0.0.1", f"--port={self._port}", "--in-memory"],
        }[self._protocol]
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < deadline, f"the {self._protocol} server did not answer within 60 s"
            time.sleep(0.2)
        making = {"s3": "&allow_bucket_creation=true", "gs": "&project_id=test"}[self._protocol]
        filesystem, _ = pafs.FileSystem.from_uri(self.uri("bucket") + making)
        filesystem.create_dir("bucket")

    def _answers(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0

    def stop(self) -> None:
        """Kill the server."""
        self._process.kill()
        self._process.wait()

    def uri(self, path: str, secret: str = "") -> str:
        """Return the URI of a path that starts with the bucket.

        Args:
            path: the path.
            secret: secret key in the URI instead of the environment's; Google's URIs have none.
        """
        user = {"s3": f"testing:{secret}@" if secret else "", "gs": "anonymous@"}[self._protocol]
        limit = {"s3": "", "gs": "&retry_limit_seconds=1"}[self._protocol]
        return f"{self._protocol}://{user}{path}?scheme=http&endpoint_override=127.0.0.1%3A{self._port}{limit}"


@pytest.fixture(scope="module", params=["s3", "gs"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(protocol: str) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in KEYS.items():
            environment.setenv(name, value)
        server = Server(protocol)
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="module")
def bucket(server: Server) -> Folder:
    return Folder(server.uri("bucket"))


@pytest.fixture(scope="module")
def absent(bucket: Folder, protocol: str) -> "Iterator[tuple[Future[None], Future[None]]]":
    """A write and a check in a store that is not there, which wait beside the tests for some seconds inside Arrow.

    Arrow connects to no other S3 store meanwhile, so all connections are made before.
    """
    del bucket
    uri = Server(protocol).uri("bucket/away")
    folder, run = Folder(uri), RunFolder(uri)
    with ThreadPoolExecutor() as pool:
        write = pool.submit(retry_on_oserror, lambda: folder.write("a", b"one"), "a table", timeout_s=2)
        yield write, pool.submit(run.check_is_run)


@pytest.fixture
def folder(bucket: Folder, absent: object, request: pytest.FixtureRequest) -> Folder:
    del absent
    return bucket / str(request.function.__name__)


def test_files_and_tables_are_written_read_listed_and_removed(folder: Folder) -> None:
    assert not folder.is_local
    assert not folder.exists()
    folder.create()
    folder.write("a", b"one")
    folder.write("a", b"other")
    inner = folder / "tune" / "records"
    inner.create()
    inner.write_tables("b.parquet", [pa.Table.from_pydict({"number": [1, 2]}, SCHEMA)], SCHEMA)
    assert folder.read("a") == b"other"
    assert inner.read_table("b.parquet").to_pydict() == {"number": [1, 2]}
    assert folder.names() == ["a", "tune"]
    assert inner.location.endswith(f"tune/records?{folder.location.partition('?')[2]}")
    folder.remove("tune")
    assert folder.names() == ["a"]
    with pytest.raises(FileNotFoundError):
        folder.read("absent")


def test_failed_write_leaves_no_partial_file_and_the_old_one(folder: Folder) -> None:
    def tables() -> Iterator[pa.Table]:
        yield pa.Table.from_pydict({"number": [2]}, SCHEMA)
        raise OSError("the network is gone")

    folder.write_tables("old", [pa.Table.from_pydict({"number": [1]}, SCHEMA)], SCHEMA)
    for name in ("new", "old"):
        with pytest.raises(OSError, match="the network is gone"):
            folder.write_tables(name, tables(), SCHEMA)
    assert folder.names() == ["old"]
    assert folder.read_table("old").to_pydict() == {"number": [1]}


def test_records_of_finished_trials_are_folded(folder: Folder) -> None:
    schema = pa.schema([("trial_id", pa.string()), ("round", pa.int64())])
    files = RecordTable(folder, "rounds", schema)
    places = {f"{number:05}": number for number in range(2 * TRIALS_PER_FOLD)}
    for trial_id, number in places.items():
        files.write(trial_id, pa.Table.from_pydict({"trial_id": [trial_id], "round": [number]}, schema))
        files.fold(places, places, set())
    assert folder.names() == ["finished-000002.rounds.parquet"]
    rows = pa.concat_tables(files.merged(files.sources(places, set()), places))
    assert rows.to_pydict() == {"trial_id": list(places), "round": list(places.values())}
    assert RecordTable(folder, "rounds", schema).read("00007")["round"].to_pylist() == [7]


def peer_files(round: int) -> list[tuple[str, bytes]]:
    return [("peer-0.safetensors", bytes([round]))]


def test_checkpoints_are_complete_or_absent(folder: Folder) -> None:
    checkpoints = Checkpoints(folder)
    for round in (1, 2, 3, 4):
        metadata = CheckpointMetadata(
            round=round, score=1 / round, is_complete=False, peers=[0], num_restarts={}, summary={}, settings={}
        )
        checkpoints.write(metadata, partial(peer_files, round))
    assert [(one.metadata.round, one.files()) for one in checkpoints.newest_first()] == [
        (round, {"peer-0.safetensors": bytes([round])}) for round in (4, 3, 1)
    ]
    (folder / "round-000004").write("peer-0.safetensors", b"x")
    newest = next(checkpoints.newest_first())
    with pytest.raises(CheckpointError, match=r"round-000004/peer-0\.safetensors\?.*: [^\n]*hash$"):
        newest.files()


@pytest.mark.timeout(120)
def test_absent_store_is_retried(absent: "tuple[Future[None], Future[None]]", protocol: str) -> None:
    write, check = absent
    with pytest.raises(StorageError, match=r"^a table: .* 2 s; .*--resume$"):
        write.result()
    with pytest.raises(StorageError, match=rf"^{protocol}://.*: cannot be reached: .*credentials"):
        check.result()


@pytest.mark.ray
@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Tune leaves its log files open
def test_study_is_complete_and_resuming_it_changes_nothing(
    server: Server, protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    uri = server.uri("bucket/runs/study", PASSWORD)
    storage = f"tune.optuna_storage=guarded://me:{PASSWORD}@host/{tmp_path}/study.db"
    monkeypatch.setattr(sys, "argv", ["graftpop", "tune", "--out", uri, "--set", storage])
    space = load_space(tmp_path / "space.yaml", [storage])
    with starting_ray(space, None) as start:
        start_study(space, new_run_folder(uri, space), "space.yaml", [storage], start)
    folder = Folder(uri)
    assert {"best", "report.html", "rounds.parquet", "run.json", "space.yaml", "trials.parquet", "tune"} <= set(
        folder.names()
    )
    tables = {name: folder.read_table(f"{name}.parquet") for name in ("trials", "rounds", "grafts")}
    assert tables["trials"]["status"].to_pylist() == ["completed"]
    rows = tables["rounds"].to_pylist()
    assert [(row["round"], row["peer"]) for row in rows] == [(round_, peer) for round_ in (1, 2, 3) for peer in (0, 1)]
    assert (folder / "best").names() == ["config.json", "metrics.json", "model.safetensors"]
    if protocol == "s3":  # the tests above read both stores in the ways that resuming does
        before = folder.read("best/model.safetensors")
        monkeypatch.setenv("GRAFTPOP_STORAGE_URL", storage.partition("=")[2])
        resume_study(uri, None)
        assert folder.read("best/model.safetensors") == before
        assert all(folder.read_table(f"{name}.parquet").equals(table) for name, table in tables.items())
    assert pq.read_schema(pa.BufferReader(folder.read("events.parquet"))).names[0] == "trial_id"
    check_no_secret(folder, tmp_path, capfd.readouterr())


def check_no_secret(folder: Folder, disk: Path, output: tuple[str, str]) -> None:
    """Assert that a study's password is neither in its run folder, nor in its database or output."""
    filesystem, path = pafs.FileSystem.from_uri(folder.location)
    files = [info.path for info in filesystem.get_file_info(pafs.FileSelector(path, recursive=True)) if info.is_file]
    assert len(files) > 20
    contents = {file: filesystem.open_input_stream(file).read() for file in files}
    contents |= {str(file): file.read_bytes() for file in disk.rglob("*") if file.is_file()}
    assert any(b"guarded://me:***@host" in content for content in contents.values())
    assert [file for file, content in contents.items() if PASSWORD.encode() in content] == []
    assert PASSWORD not in "".join(output)
