"""A real cluster of several nodes on one Linux host.

To Ray, each node is a machine: it has its own namespaces for network, processes, mounts and host name, its own address
behind a bridge, and its own temporary folder. One process per node holds all of this. When it is killed, the kernel
kills everything in the node at once, as in a power failure. The bridge has its own namespace, so the host does not
change and several clusters can run side by side.

A driver has to run inside a node (`node.command`), because Ray connects a driver to the raylet at its own address.
Without permission for namespaces, `ray.cluster_utils.Cluster` is the substitute, with all nodes at one address.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Machine", "Node", "Nodes", "SEEN_DEAD_SOON", "nodes_of", "process_inside"]

ROOT = Path(__file__).resolve().parents[1]
HEAD_PORT = 6379
OBJECT_STORE_BYTES = 150_000_000
START_LIMIT_S = 90.0
END_LIMIT_S = 30.0
SEEN_DEAD_SOON = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""Environment variables with which Ray declares a failed node dead within seconds; the defaults take 25 s."""
HOLD = "echo up; while :; do sleep 3600 & wait $!; done"  # bash as process 1 also reaps orphans


class _Namespaces:
    """A process that holds namespaces. They end with it, and it ends with the process that started it."""

    def __init__(self, *kinds: str) -> None:
        self._process = subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                "--net",
                "--mount",
                "--pid",
                *kinds,
                "--fork",
                "--kill-child",
                "--mount-proc",
                "bash",
                "-c",
                HOLD,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdout
        if self._process.stdout.readline() != b"up\n":
            raise PermissionError(f"unshare: {self._process.communicate(timeout=END_LIMIT_S)[1].decode().strip()}")
        self.holder = process_inside(self._process)

    def command(self, *arguments: str) -> list[str]:
        """Return a command line that runs a command inside; the command ends when its parent is killed."""
        return [
            "nsenter",
            f"--target={self.holder}",
            "--net",
            "--mount",
            "--pid",
            "--uts",
            "--wd=.",
            "setpriv",
            "--pdeathsig",
            "KILL",
            *arguments,
        ]

    def run(self, *arguments: str) -> None:
        _run(self.command(*arguments))

    def kill(self) -> None:
        """Kill everything inside, and wait for its end."""
        if self._process.poll() is None:
            os.kill(self.holder, signal.SIGKILL)
        self._process.communicate(timeout=END_LIMIT_S)


class _Standin:
    """A process with a `ray.cluster_utils.Cluster`; the token has to be set before it imports ray."""

    PROGRAM = """
import sys
from ray.cluster_utils import Cluster
cluster, nodes = Cluster(), []
for word, value in map(str.split, sys.stdin):
    if word == "add":
        nodes.append(cluster.add_node(num_cpus=int(value), num_gpus=0, object_store_memory=OBJECT_STORE_BYTES,
                                      include_dashboard=False))
    else:
        cluster.remove_node(nodes[int(value)], allow_graceful=False)
    print("done", cluster.address, nodes[-1].node_ip_address, flush=True)
cluster.shutdown()
""".replace("OBJECT_STORE_BYTES", str(OBJECT_STORE_BYTES))

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def ask(self, what: str) -> str:
        """Send a command, to add or kill a node, and return the answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("done "):
                return line.removeprefix("done ")
        raise AssertionError(f"the stand-in did not {what}: {self._process.communicate(timeout=END_LIMIT_S)[1]}")

    def kill(self) -> None:
        """End all nodes."""
        self._process.communicate(timeout=END_LIMIT_S)


class Machine:
    """A machine at the bridge, without Ray.

    Attributes:
        address: IP address.
        own: folder on the host that is `Nodes.local` inside.
        holder: ID on the host of the ancestor of all processes inside.
    """

    def __init__(self, switch: _Namespaces, folder: Path, number: int) -> None:
        self.address = f"10.0.0.{number}"
        self.own = own = folder / f"node-{number}"
        self._inside = _Namespaces("--uts")
        self.holder = self._inside.holder
        run = self._inside.run
        try:
            _run(
                [
                    "ip",
                    "link",
                    "add",
                    f"port{number}",
                    "netns",
                    str(switch.holder),
                    "type",
                    "veth",
                    "peer",
                    "name",
                    "eth0",
                    "netns",
                    str(self._inside.holder),
                ]
            )
            switch.run("ip", "link", "set", f"port{number}", "master", "bridge", "up")
            run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
            run("ip", "link", "set", "eth0", "up")
            run("ip", "link", "set", "lo", "up")
            run("hostname", f"node-{number}")
            (own / "ray").mkdir(parents=True)
            # as on Debian, the host name resolves to a loopback address, not to the machine's address
            (own / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 node-{number}\n")
            run("mount", "--bind", str(own / "hosts"), "/etc/hosts")
            run("mount", "--bind", str(own), str(folder / "local"))
        except BaseException:  # clean up after an interrupt too
            self.kill()
            raise

    def command(self, *arguments: str) -> list[str]:
        """Return a command line that runs a command on this machine; `process_inside` finds the process to signal."""
        return self._inside.command(*arguments)

    def kill(self) -> None:
        """End everything on the machine at once, its address included."""
        self._inside.kill()


class Node:
    """A node of the cluster.

    Attributes:
        address: IP address; without namespaces, all nodes share one.
        own: folder on the host that is `Nodes.local` inside; without namespaces, all nodes share one.
        command: function that returns a command line to run a command on this node; `process_inside` finds the process
            to signal.
        kill: function that ends everything on the node at once, its address included.
        holder: ID on the host of the ancestor of all processes of the node; None without namespaces.
    """

    def __init__(
        self,
        address: str,
        own: Path,
        command: Callable[..., list[str]],
        kill: Callable[[], Any],
        holder: int | None = None,
    ) -> None:
        self.address = address
        self.own = own
        self.command = command
        self.kill = kill
        self.holder = holder


class Nodes:
    """A cluster.

    Attributes:
        address: HOST:PORT of the head.
        environment: environment variables of the nodes, also needed by drivers.
        separate: whether every node has its own namespaces.
        shared: folder shared by all nodes.
        local: path of a folder that differs from node to node.
        head: first node.
        nodes: all nodes started so far.
    """

    def __init__(self, folder: Path, stack: ExitStack, extra: Mapping[str, str], *, namespaces: bool) -> None:
        self.shared, self.local = folder / "shared", folder / "local"
        for subfolder in (self.shared, self.local):
            subfolder.mkdir()
        self.environment = (
            os.environ
            | {
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": secrets.token_hex(32),
                "RAY_TMPDIR": str(self.local / "ray"),
                "RAY_USAGE_STATS_ENABLED": "0",
                "XDG_CACHE_HOME": str(self.local / "cache"),
            }
            | dict(extra)
        )
        self.environment.pop("RAY_ADDRESS", None)
        self.nodes: list[Node] = []
        self._folder, self._stack = folder, stack
        self._num_machines = 0
        self._switch = self._make_switch() if namespaces else None
        self._standin: _Standin | None = None
        self.separate = self._switch is not None
        self.address = f"10.0.0.1:{HEAD_PORT}"

    @property
    def head(self) -> Node:
        return self.nodes[0]

    def _make_switch(self) -> _Namespaces | None:
        try:
            switch = _Namespaces()
        except (PermissionError, FileNotFoundError):
            return None
        self._stack.callback(switch.kill)
        switch.run("ip", "link", "add", "bridge", "type", "bridge")
        switch.run("ip", "link", "set", "bridge", "up")
        return switch

    def add_machine(self) -> Machine:
        """Add a machine without Ray, for a client or for a launcher that starts Ray there."""
        assert self._switch, "add_machine: needs namespaces"
        self._num_machines += 1
        machine = Machine(self._switch, self._folder, self._num_machines)
        self._stack.callback(machine.kill)
        return machine

    def add_node(
        self, num_cpus: int, *, environment: Mapping[str, str] | None = None, options: Sequence[str] = ()
    ) -> Node:
        """Start a node and return it once it has joined.

        Args:
            num_cpus: number of CPUs that Ray may use on the node.
            environment: additional environment variables of this node.
            options: additional options of `ray start`.
        """
        if not self.separate:
            return self._add_to_standin(num_cpus)
        machine = self.add_machine()
        where = (
            [f"--address={self.address}"]
            if self.nodes
            else ["--head", f"--port={HEAD_PORT}", "--include-dashboard=false"]
        )
        # `ray start` uses the last of repeated options
        _run(
            machine.command(
                "ray",
                "start",
                *where,
                f"--node-ip-address={machine.address}",
                f"--num-cpus={num_cpus}",
                "--num-gpus=0",
                f"--object-store-memory={OBJECT_STORE_BYTES}",
                *options,
            ),
            START_LIMIT_S,
            self.environment | dict(environment or {}),
        )
        node = Node(machine.address, machine.own, machine.command, machine.kill, machine.holder)
        self.nodes.append(node)
        return node

    def _add_to_standin(self, num_cpus: int) -> Node:
        if self._standin is None:
            (self.local / "ray").mkdir()
            self._standin = _Standin(self.environment)
            self._stack.callback(self._standin.kill)
        number = len(self.nodes)
        self.address, address = self._standin.ask(f"add {num_cpus}").split()
        node = Node(
            address,
            self.local,
            lambda *arguments: list(arguments),
            lambda: self._standin and self._standin.ask(f"kill {number}"),
        )
        self.nodes.append(node)
        return node

    def run(
        self,
        *arguments: str,
        timeout_s: float,
        node: Node | Machine | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a node (default: the head) and return its result, also after a failure."""
        return subprocess.run(
            (node or self.head).command(*arguments),
            cwd=self.shared,
            timeout=timeout_s,
            text=True,
            env=self.environment | dict(environment or {}),
            capture_output=True,
            check=False,
        )


@contextmanager
def nodes_of(
    *cpus: int, namespaces: bool = True, environment: Mapping[str, str] | None = None, head_options: Sequence[str] = ()
) -> Iterator[Nodes]:
    """Run a cluster inside a block, and remove all of it at the end of the block, also after an error.

    Args:
        cpus: number of CPUs of each node, head first; without any, the cluster starts empty.
        namespaces: False uses the stand-in.
        environment: additional environment variables of all nodes and drivers.
        head_options: additional options of the head's `ray start`, such as `--ray-client-server-port=10001`.
    """
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="gp-", dir="/tmp"))  # a short path: Ray puts sockets there
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        nodes = Nodes(folder, stack, environment or {}, namespaces=namespaces)
        for number, num_cpus in enumerate(cpus):
            nodes.add_node(num_cpus, options=() if number else head_options)
        yield nodes


def process_inside(process: subprocess.Popen[Any]) -> int:
    """Return the ID on this host of the process started by a command line of `Machine.command`."""
    deadline = time.monotonic() + END_LIMIT_S
    while time.monotonic() < deadline:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.01)
    raise TimeoutError(f"process {process.pid} started no process within {END_LIMIT_S:g} s")


def _run(command: Sequence[str], timeout_s: float = END_LIMIT_S, environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
