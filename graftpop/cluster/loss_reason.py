"""The cause of a lost process or object in one line, from Ray's long messages."""

import re

__all__ = ["loss_reason"]

LOW_MEMORY = "running low on memory"
"""Part of every message about a process that Ray's memory monitor killed."""


def loss_reason(text: str, actor: object = None) -> str:
    """Return in one line why an actor or an object was lost.

    Args:
        text: Ray's message.
        actor: handle of the actor, whose process a message about memory describes among others.
    """
    if LOW_MEMORY in text:
        return _memory_reason(text, str(actor))
    if ours := re.findall(r"graftpop\.errors\.\w+: (.+)", text):
        return str(ours[-1])
    where = [match[0] for key in ("ip", "pid") if (match := re.search(rf"{key}: [^\s,]+", text))]
    detail = re.search(r"Worker exit detail: ([^.]+)", text)
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
