"""Search spaces, most of them invalid."""

import json
import random
from pathlib import Path
from typing import Any, Final

import yaml
from mutations import INTERESTING, mutated, random_bytes

from graftpop.settings import Settings
from graftpop.space.keys import known_keys
from graftpop.space.yaml_tree import put

__all__ = ["space_input"]

TEXTS: Final = [file.read_bytes() for file in sorted((Path(__file__).parents[2] / "search_spaces").rglob("*.yaml"))]
TREES: Final = [yaml.safe_load(text) for text in TEXTS]
KEYS: Final = [
    *known_keys(Settings),
    *Settings.model_fields,
    "variants",
    "seeds",
    "baseline",
    "compare",
    "compare.equal",
    "published",
    "variants.a.graft.A",
    "published.scores",
    "distillation.teachers",
    "nonsense",
    "a.b.c.d",
]
SCALARS: Final = [
    "",
    "~",
    "null",
    "true",
    "yes",
    "0",
    "-1",
    "0x_",
    "0b_",
    "0o8",
    "1:2:3",
    "1:59.5",
    "1e9",
    "1.0e400",
    ".inf",
    "-.nan",
    "2024-13-45",
    "2001-01-01 25:61:61",
    "=",
    "<<",
    "&a 1",
    "*a",
    "&a [*a]",
    "!!int x",
    "!!int ''",
    "!!bool x",
    "!!float ''",
    "!!null x",
    "!!binary a",
    "!!set {a}",
    "!!omap [a: 1]",
    "!!timestamp x",
    "'a''b'",
    '"\\ud800"',
    '"\\0"',
    '"a\\nb"',
    "~nobody/x",
    "[1, 2]",
    "{a: 1}",
    "!!python/object/apply:os.system ['true']",
    "!<tag:yaml.org,2002:int> 1",
    "{choice: [1, 2]}",
    "{uniform: [0, 1]}",
    "{randint: [0, 99999999999999999999]}",
    "{loguniform: [1.0e-300, 1.0e+300]}",
    "{quniform: [0.0, 1.0e+300, 1.0e-300]}",
    "{quniform: [0.0, 1.0e+99, 1.0e-99]}",
    "{randint: [-18446744073709551615, 18446744073709551615]}",
    "{grid: [{}, [], null]}",
    "{choice: [[1], {a: 2}, x]}",
    "9" * 5000,
    "0x" + "f" * 3000,
    "1" * 200 + ".0",
    ":".join(["59"] * 400) + ".5",
    "a" * 5000,
]
TOKENS: Final = [
    *SCALARS[:30],
    "{",
    "}",
    "[",
    "]",
    ",",
    ": ",
    "\n",
    "\n  ",
    "\n- ",
    "? ",
    "- ",
    "|",
    ">",
    "|2-",
    "'",
    '"',
    "#",
    "\t",
    "%TAG ! x\n",
    "%YAML 9.9\n",
    "---\n",
    "...\n",
    "@",
    "`",
    "&a ",
    "*a ",
    "!",
    "!!str ",
    "training",
    "graft",
    "population: ",
    "choice",
    "\u2028",
    "\ufeff",
    "\x85",
    "\U0001f600",
]


def space_input(rng: random.Random) -> tuple[bytes, list[str]]:
    """Return the content of a file, and options KEY=VALUE."""
    kind = rng.randrange(12)
    if kind <= 3:
        content = mutated(rng.choice(TEXTS), rng)
    elif kind <= 7:
        content = _with_odd_values(rng)
    elif kind <= 9:
        content = "".join(rng.choice(TOKENS) for _ in range(rng.randrange(1, 60))).encode()
    elif kind == 10:
        content = _bomb(rng)
    else:
        content = random_bytes(rng)
    overrides = [f"{rng.choice(KEYS)}={rng.choice(SCALARS)}" for _ in range(rng.choice((0, 0, 0, 1, 2)))]
    if rng.random() < 0.03:
        overrides.append(random_bytes(rng, 40).decode("utf-8", "surrogateescape"))
    return content, overrides


def _with_odd_values(rng: random.Random) -> bytes:
    """Return a valid space in flow style, with some values replaced by other keys' values or unusual ones."""
    tree: dict[str, Any] = json.loads(json.dumps(rng.choice(TREES)))
    marks = {}
    for number in range(rng.randrange(1, 4)):
        marks[f"MARK{number}"] = rng.choice(SCALARS) if rng.random() < 0.8 else str(rng.choice(INTERESTING))
        put(tree, rng.choice(KEYS), f"MARK{number}")
    text = json.dumps(tree)
    for mark, value in marks.items():
        text = text.replace(f'"{mark}"', value)
    return text.encode("utf-8", "surrogatepass")


def _bomb(rng: random.Random) -> bytes:
    depth = rng.choice((10, 31, 32, 33, 100, 3000))
    return rng.choice(
        (
            b"a: " + b"[" * depth + b"]" * depth,
            b"{a: " * depth + b"1" + b"}" * depth,
            b"- " * depth,
            b"? " * depth,
            b"a0: &a0 [x]\n" + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b"*a%d, " % (n - 1) * 9) for n in range(1, 12)),
            b"a: &a {b: *a}",
            b"seed: {choice: [" + b",".join(b"%d" % n for n in range(20 * depth)) + b"]}",
            b"name: " + b"x" * (50 * depth),
            b"variants: {" + b",".join(b"v%d: {}" % n for n in range(depth // 10)) + b"}",
        )
    )
