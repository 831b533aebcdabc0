"""Safe reading of YAML text.

Reading is fast for any input and returns only maps, lists, one-line strings, numbers, booleans and nulls. Size, depth
and number of nodes are bounded. Aliases are refused, so the data is never larger than the text.
"""

import math
import re
from typing import Any, Final

import yaml

from graftpop.errors import SpaceError, one_line

__all__ = ["MAX_CHARS", "NOT_ON_ONE_LINE", "read_numbers_", "read_sections", "read_yaml"]

# the longest space of the project has 12,000 characters, 336 nodes and a depth of 7
MAX_CHARS: Final = 2**20
MAX_NODES: Final = 10_000  # keys, values, maps and lists
MAX_DEPTH: Final = 32
MAX_SCALAR_CHARS: Final = 4096  # the longest path on Linux
SMALLEST: Final = 1e-100  # smallest number above 0; the largest is its inverse

YAML: Final = "tag:yaml.org,2002:"

INTEGER: Final = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$")
"""A whole number in YAML 1.2, or in base 2, or with `_`. PyYAML follows YAML 1.1, where 010 is 8 and 1:30 is 90."""
FLOAT: Final = re.compile(
    r"[-+]?(?:(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$"
    r"|\.(?:nan|NaN|NAN)$"
)
"""Any other number in YAML 1.2, or with `_`. In YAML 1.1 an exponent needs a point and a sign: `1.0e+4`."""
OF_YAML_1_1: Final = {YAML + kind for kind in ("timestamp", "int", "float")}
"""Kinds of values that PyYAML finds in text that has another meaning in YAML 1.2."""
PLAIN_KINDS: Final = {None, *(YAML + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map"))}
NOT_ON_ONE_LINE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader with bounds, for plain data only: no aliases, and dates are strings.

    A duplicate key in a map is an error. PyYAML would silently keep the last value.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._num_nodes = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node within the bounds."""
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it out
        self._num_nodes += 1
        self._depth += 1
        if self._num_nodes > MAX_NODES:
            raise _refusal(f"more than {MAX_NODES} keys and values", event)
        if self._depth > MAX_DEPTH:
            raise _refusal(f"nested more than {MAX_DEPTH} deep", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(f"aliases are not allowed, got *{event.anchor}; write out its value", event)
        if isinstance(event, yaml.ScalarEvent):
            if len(event.value) > MAX_SCALAR_CHARS:
                raise _refusal(f"text of more than {MAX_SCALAR_CHARS} characters", event)
            if NOT_ON_ONE_LINE.search(event.value):
                raise _refusal(
                    f"text must be one line without control characters, got {event.value[:60]!a}; fold it with >-",
                    event,
                )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a map without duplicate keys."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise _refusal(f"key '{key}' appears twice", key_node)
            seen.add(str(key))
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Construct a whole number of at most 64 bits; Python refuses to print very long ones."""
        text = self.construct_scalar(node).replace("_", "")
        if (value := int(text, 0 if re.match("[-+]?0[bx]", text) else 10)).bit_length() > 64:
            raise _refusal("whole number of more than 64 bits", node)
        return value

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Construct a number small and large enough that sums and quotients stay finite."""
        value = super().construct_yaml_float(node)
        is_number = math.isfinite(value) or node.value[-1:].isdigit()  # 1e400 is infinite in Python
        if value and is_number and not SMALLEST <= abs(value) <= 1 / SMALLEST:
            raise _refusal(f"number beyond {SMALLEST:g} to {1 / SMALLEST:g}", node)
        return value


_PlainLoader.yaml_constructors = {
    tag: constructor for tag, constructor in yaml.SafeLoader.yaml_constructors.items() if tag in PLAIN_KINDS
}


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in OF_YAML_1_1]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_numbers_(kind: type[yaml.SafeLoader] | type[yaml.SafeDumper]) -> None:
    """Let a loader read the numbers of YAML 1.2, in place; a dumper then quotes such text."""
    kind.add_implicit_resolver(YAML + "int", INTEGER, list("-+0123456789"))  # first, since FLOAT matches these too
    kind.add_implicit_resolver(YAML + "float", FLOAT, list("-+.0123456789"))


read_numbers_(_PlainLoader)
_PlainLoader.add_constructor(YAML + "int", _PlainLoader.construct_yaml_int)
_PlainLoader.add_constructor(YAML + "float", _PlainLoader.construct_yaml_float)


def _refusal(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def read_yaml(text: str, where: str) -> Any:
    """Return the plain data of a YAML text.

    Args:
        text: any text.
        where: name of its source, at the start of messages.

    Raises:
        SpaceError: the text is not valid YAML, exceeds a bound, or has an alias or a duplicate key.
    """
    if len(text) > MAX_CHARS:
        raise SpaceError(f"{where}: must have at most {MAX_CHARS} characters, got {len(text)}; is it a search space?")
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise SpaceError(f"{where}:{line} not valid YAML: {one_line(error.problem)}") from error
    except (yaml.YAMLError, ValueError, LookupError, ArithmeticError) as error:  # the last three come from `!!int x`
        raise SpaceError(f"{where}: not valid YAML: {one_line(error)}") from error


def read_sections(text: str, where: str) -> dict[str, Any]:
    """Return the sections of a space's YAML text; empty if the text is.

    Args:
        text: any text.
        where: name of its source, at the start of messages.

    Raises:
        SpaceError: the text is not valid YAML, or not a map.
    """
    tree = read_yaml(text, where) or {}
    if not isinstance(tree, dict):
        raise SpaceError(f"{where}: must be a map of sections, got {type(tree).__name__}")
    return tree
