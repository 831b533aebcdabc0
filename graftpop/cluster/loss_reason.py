"""The cause of a lost process or object, or of a failed trial, in one line, from long messages of Ray and Tune."""

import re

from graftpop.errors import printable

__all__ = ["failure_reason", "loss_reason"]

LOW_MEMORY = "running low on memory"
"""Part of every message about a process that Ray's memory monitor killed."""

EXIT_DETAIL = "Worker exit detail: "
"""Part of every message about a process that died."""


ERROR_LINE = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b")
"""Start of the last lines of a traceback."""


def failure_reason(text: str) -> str:
    """Return in one line why a trial failed: our own message if there is one, else Python's last error line.

    Args:
        text: content of Tune's error file of the trial, which also has the earlier errors; or a message.
    """
    text = printable(text.rpartition("Failure # ")[2])
    if EXIT_DETAIL in text:
        return loss_reason(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if ERROR_LINE.match(line)]
    if not errors:
        return lines[-1] if lines else "no reason was given"
    return re.sub(r"^graftpop\.errors\.\w+: ", "", errors[-1])


def loss_reason(text: str, actor: object = None) -> str:
    """Return in one line why an actor or an object was lost.

    Args:
        text: Ray's message.
        actor: handle of the actor; a message about memory lists several processes, and the handle identifies its own.
    """
    if LOW_MEMORY in text:
        return _memory_reason(text, str(actor))
    if ours := re.findall(r"graftpop\.errors\.\w+: (.+)", text):
        return str(ours[-1])
    where = [match[0] for key in ("ip", "pid") if (match := re.search(rf"{key}: [^\s,]+", text))]
    detail = re.search(rf"{EXIT_DETAIL}([^.]+)", text)
    reason = detail[1] if detail else text.strip().splitlines()[0]
    return f"{reason} ({', '.join(where)})" if where else reason


def _memory_reason(text: str, actor: str) -> str:
    """Return the process, the memory of its node, its largest process and the next step, each where Ray names it."""
    actor_id = re.search(r"[0-9a-f]{32}", actor)
    own = actor_id and re.search(rf"Actor\({actor_id[0]}\).*?pid=(\d+), actual memory used=([\d.]+GB)", text)
    node = re.search(r"Memory on the node \(IP: ([^,]+),.*?\) was ([\d.]+GB) used / ([\d.]+GB)", text)
    largest = re.search(r"^(\d+)\t([\d.]+)\t(.+)$", text, re.MULTILINE)
    return (
        "Ray's memory monitor killed the process"
        + (f" (pid {own[1]}, {own[2]})" if own else "")
        + (f": node {node[1]} used {node[2]} of {node[3]} of memory" if node else ": its node was short of memory")
        + (f", its largest process is pid {largest[1]} ({largest[2]}GB, {largest[3][:60].strip()})" if largest else "")
        + "; lower training.batch_size, or raise resources.cpus_per_peer so that fewer peers run at once"
    )
