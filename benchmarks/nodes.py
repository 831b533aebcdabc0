"""A real cluster of several nodes on one Linux host.

Each node is a machine as far as Ray can see: namespaces of its own for network, processes, mounts and host name, its
own address behind a bridge, its own temporary folder. All of it hangs on one process a node: when that one is killed,
the kernel kills everything in the node at once, as when a machine loses its power. The bridge lies in a namespace
too, so that nothing of the host changes and any number of clusters stand side by side.

A driver runs inside a node (`node.command`), as it must: Ray joins a driver to the raylet of its own address. Where
namespaces are not permitted, `ray.cluster_utils.Cluster` stands in, with all nodes at one address.
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
"""An environment for nodes in which Ray gives up one without power within seconds; at its defaults it takes 25 s."""
HOLD = "echo up; while :; do sleep 3600 & wait $!; done"  # bash as process 1: it also buries orphans


class _Namespaces:
    """One process that holds namespaces; they end with it, and it ends with the process that made it."""

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
        """Return the command that runs a command inside; it ends when the process that runs it is killed."""
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
        """Kill everything inside, and wait until it is gone."""
        if self._process.poll() is None:
            os.kill(self.holder, signal.SIGKILL)
        self._process.communicate(timeout=END_LIMIT_S)


class _Standin:
    """A process with a `ray.cluster_utils.Cluster`, which must have the token before it imports ray."""

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
    print("said", cluster.address, nodes[-1].node_ip_address, flush=True)
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
        """Let it add or kill a node; return its answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("said "):
                return line.removeprefix("said ")
        raise AssertionError(f"the stand-in did not {what}: {self._process.communicate(timeout=END_LIMIT_S)[1]}")

    def kill(self) -> None:
        """End all its nodes."""
        self._process.communicate(timeout=END_LIMIT_S)


class Machine:
    """A machine at the bridge, on which Ray does not run yet.

    Attributes:
        address: its IP address.
        own: the folder that it sees as `Nodes.local`.
        holder: the process that all others on it descend from, as this host numbers it.
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
            # as Debian writes it: a machine's own name stands for its loopback, and not for its address
            (own / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 node-{number}\n")
            run("mount", "--bind", str(own / "hosts"), "/etc/hosts")
            run("mount", "--bind", str(own), str(folder / "local"))
        except BaseException:  # an interrupt too leaves no machine behind
            self.kill()
            raise

    def command(self, *arguments: str) -> list[str]:
        """Return the command that runs a command on this machine; see `process_inside` to send it a signal."""
        return self._inside.command(*arguments)

    def kill(self) -> None:
        """End everything on the machine, and its address, at once."""
        self._inside.kill()


class Node:
    """A node of the cluster.

    Attributes:
        address: its IP address; all nodes share one where there are no namespaces.
        own: the folder that it sees as `Nodes.local`; one for all where there are no namespaces.
        command: returns the command that runs a command on this node; see `process_inside` to send that a signal.
        kill: ends everything on the node, and its address, at once.
        holder: the process that all others of the node descend from, as this host numbers it; None where there are no
            namespaces.
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
        environment: what a driver needs, with which the nodes were started too.
        separate: whether every node has namespaces of its own.
        shared: a folder that all nodes see.
        local: a folder that is another one on every node, under the same name.
        head: the first node.
        nodes: all that were started.
    """

    def __init__(self, folder: Path, stack: ExitStack, extra: Mapping[str, str], *, namespaces: bool) -> None:
        self.shared, self.local = folder / "shared", folder / "local"
        for made in (self.shared, self.local):
            made.mkdir()
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
        """Add a machine without Ray: a client's, or one on which a launcher is to start it."""
        assert self._switch, "a machine of its own needs namespaces"
        self._num_machines += 1
        machine = Machine(self._switch, self._folder, self._num_machines)
        self._stack.callback(machine.kill)
        return machine

    def add_node(
        self, num_cpus: int, *, environment: Mapping[str, str] | None = None, options: Sequence[str] = ()
    ) -> Node:
        """Start a node and return it once it has joined.

        Args:
            num_cpus: that Ray may use on it.
            environment: set on this node in addition.
            options: further options of `ray start`.
        """
        if not self.separate:
            return self._add_to_standin(num_cpus)
        machine = self.add_machine()
        where = (
            [f"--address={self.address}"]
            if self.nodes
            else ["--head", f"--port={HEAD_PORT}", "--include-dashboard=false"]
        )
        # an option that is given twice counts as it is given last
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
        """Run a command on a node, the head unless another is given, to its end, whatever that is."""
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
    """Have a cluster for the time of a block; nothing of it is left after the block, however that ends.

    Args:
        cpus: of each node, the head first; none starts machines later, by `add_machine`.
        namespaces: False takes the stand-in.
        environment: set on every node and for drivers in addition.
        head_options: further options of the head's `ray start`, such as `--ray-client-server-port=10001`.
    """
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="gp-", dir="/tmp"))  # short: Ray's sockets lie in it
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        nodes = Nodes(folder, stack, environment or {}, namespaces=namespaces)
        for number, num_cpus in enumerate(cpus):
            nodes.add_node(num_cpus, options=() if number else head_options)
        yield nodes


def process_inside(process: subprocess.Popen[Any]) -> int:
    """Return the number on this host of the process that a command of `Machine.command` runs."""
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
