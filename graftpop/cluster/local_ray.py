"""The start of a local Ray: private to its user, and ended by the driver alone, whatever signals arrive.

One import is from `ray._private`, because Ray 2.60 has no public way: the address that a new cluster listens on.
"""

import ctypes
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from graftpop.cluster.auth_token import protect_token

__all__ = ["hint_of_full_disk", "private_start", "sighup_blocked", "sigterm_kept", "started_in_thread"]

LEAST_FREE_MIB = 64


@contextmanager
def started_in_thread(init: Callable[[], Any]) -> Iterator[Callable[[], Any]]:
    """Start a local Ray in the background, and yield a function that waits for it.

    Ray ends with the block. If the block ends while Ray still starts, for example after an error, the start is
    abandoned; only the end of this process waits for it.

    Args:
        init: calls `ray.init`. The yielded function returns its result, or raises its exception.
    """
    result, is_over = Future[Any](), Event()

    def run() -> None:
        import ray

        try:
            with private_start(), sighup_blocked(), _sigterm_action_kept():
                ready = init()
            result.set_result(ready)
            is_over.wait()  # the kernel ends Ray's processes with the thread that started them
        except BaseException as error:  # of the thread; the yielded function raises it in the main one
            if not result.done():
                result.set_exception(error)
        finally:
            ray.shutdown()

    thread = Thread(target=run, name="ray")
    try:
        thread.start()
        yield result.result
    finally:
        is_over.set()
        if result.done():
            thread.join()
        else:  # as Ctrl-C does in the main thread
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))


@contextmanager
def private_start() -> Iterator[None]:
    """Make a cluster that `ray.init` starts within the block private to this machine and user.

    Its processes listen on the loopback interface, where Ray's default is every interface. Only the user can read its
    token.

    Raises:
        OSError: the token cannot be created.
    """
    from ray._private import ray_constants

    protect_token(create=True)
    may_have_nodes = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # as on macOS; ray.init replaces `_node_ip_address="127.0.0.1"` otherwise
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = may_have_nodes


@contextmanager
def sighup_blocked() -> Iterator[None]:
    """Block SIGHUP; Ray's processes inherit this, so that they outlive the terminal until the driver ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM, which `ray.init` replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _sigterm_action_kept() -> Iterator[None]:
    """Restore the C handler of SIGTERM in any thread; Python can do so in the main thread only.

    Ray's core installs a handler that prints its stack.
    """
    libc, action = ctypes.CDLL(None), ctypes.create_string_buffer(1024)  # larger than any `struct sigaction`
    libc.sigaction(signal.SIGTERM, None, action)
    try:
        yield
    finally:
        libc.sigaction(signal.SIGTERM, action, None)


def hint_of_full_disk() -> str:
    """Return a hint if the folder of Ray's sessions is nearly full; Ray's own message names only the consequence."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if not os.path.isdir(folder):
        return ""
    free_mib = shutil.disk_usage(folder).free / 2**20
    return f"; {folder} has {free_mib:.0f} MiB left, free some or set RAY_TMPDIR" if free_mib < LEAST_FREE_MIB else ""
