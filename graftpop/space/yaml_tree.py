"""The plain data of a YAML file: read safely, changed by dotted keys, laid over each other.

Whatever the text, reading it ends soon and gives maps, lists, one-line texts, numbers, booleans and nulls: size, depth
and number of nodes are bounded, and no node stands for another one, so that what is read is never larger than the text.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import yaml
from pydantic import BaseModel

from graftpop.errors import SpaceError, choose, closest, one_line
from graftpop.settings import Settings
from graftpop.space.domains import is_domain
from graftpop.space.renamed import new_name

__all__ = [
    "MAX_CHARS",
    "STUDY_KEYS",
    "apply_override",
    "known_keys",
    "make_paths_absolute_",
    "merged",
    "names_at",
    "put",
    "read_sections",
    "read_yaml",
    "with_defaults",
]

STUDY_KEYS = ("variants", "seeds", "baseline", "published")
"""What stands beside the sections of the settings, and makes a study of them."""

PATHS = ("root", "checkpoint", "density_of")
"""Keys of files and folders, in whatever section."""

INSTEAD_OF = {"seed": "seeds", "seeds": "seed"}
"""Keys of which an option sets the one in place of the other."""

MAX_CHARS: Final = 2**20  # of a text; the longest space of the project has 12 thousand
MAX_NODES: Final = 10_000  # keys, values, maps and lists; 336 there
MAX_DEPTH: Final = 32  # 7 there
MAX_SCALAR_CHARS: Final = 4096  # the longest path that Linux takes
SMALLEST: Final = 1e-100  # number above 0, and one by the largest

YAML: Final = "tag:yaml.org,2002:"
PLAIN_KINDS: Final = {None, *(YAML + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map"))}
NOT_ON_ONE_LINE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, bounded, without aliases, and for plain data alone: a date is text.

    A key that stands twice in one map is an error and not the last one's silent win.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._num_nodes = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node, if what is bounded permits it."""
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
            raise _refusal(f"aliases are not followed, write out what *{event.anchor} stands for", event)
        if isinstance(event, yaml.ScalarEvent):
            if len(event.value) > MAX_SCALAR_CHARS:
                raise _refusal(f"text of more than {MAX_SCALAR_CHARS} characters", event)
            if NOT_ON_ONE_LINE.search(event.value):
                raise _refusal(
                    f"texts have one line and no control characters, got {event.value[:60]!a}; long ones follow >-",
                    event,
                )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a map after looking for repeated keys."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise _refusal(f"key '{key}' stands twice", key_node)
            seen.add(str(key))
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Construct a whole number of at most 64 bits: longer ones cannot even be printed."""
        if (value := super().construct_yaml_int(node)).bit_length() > 64:
            raise _refusal("whole number of more than 64 bits", node)
        return value

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Construct a number with which sums and quotients are still numbers."""
        value = super().construct_yaml_float(node)
        if value and math.isfinite(value) and not SMALLEST <= abs(value) <= 1 / SMALLEST:
            raise _refusal(f"number beyond {SMALLEST:g} to {1 / SMALLEST:g}", node)
        return value


_PlainLoader.yaml_constructors = {
    tag: constructor for tag, constructor in yaml.SafeLoader.yaml_constructors.items() if tag in PLAIN_KINDS
}
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != YAML + "timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.add_constructor(YAML + "int", _PlainLoader.construct_yaml_int)
_PlainLoader.add_constructor(YAML + "float", _PlainLoader.construct_yaml_float)


def _refusal(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def read_yaml(text: str, where: str) -> Any:
    """Return the plain data of a YAML text.

    Raises:
        SpaceError: it is not valid YAML, is too large or nested too deep, follows an alias, or a key stands twice; the
            message begins with `where`.
    """
    if len(text) > MAX_CHARS:
        raise SpaceError(f"{where}: must have at most {MAX_CHARS} characters, got {len(text)}; is it a search space?")
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise SpaceError(f"{where}:{line} not valid YAML: {one_line(error.problem)}") from error
    except (yaml.YAMLError, ValueError, LookupError, ArithmeticError) as error:  # the last three: of `!!int x`
        raise SpaceError(f"{where}: not valid YAML: {one_line(error)}") from error


def read_sections(text: str, where: str) -> dict[str, Any]:
    """Return the sections of a space's YAML text; none where it is empty.

    Raises:
        SpaceError: it is not valid YAML, or no map; the message begins with `where`.
    """
    tree = read_yaml(text, where) or {}
    if not isinstance(tree, dict):
        raise SpaceError(f"{where}: must be a map of sections, got {type(tree).__name__}")
    return tree


def apply_override(tree: dict[str, Any], override: str) -> str:
    """Set `key=value` in a tree, or `variants.NAME.key=value` in one of its variants, and return the key."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if NOT_ON_ONE_LINE.search(override):
        raise SpaceError(
            f"--set {key[:60]!a}: must be one line without control characters; lists are written [1, 2], maps {{a: 1}}"
        )
    if not equals or not key:
        raise SpaceError(f"--set {override}: must be KEY=VALUE, such as --set training.epochs=6")
    known = list(known_keys(Settings))
    of_common = _key_in_variant(tree, key, override) if key.startswith("variants.") else key
    if (new := new_name(of_common)) is not None:
        raise SpaceError(f"--set {override}: renamed to {new}; write {key.removesuffix(of_common)}{new}")
    if of_common not in (*known, *Settings.model_fields, *STUDY_KEYS):
        in_full = [name for name in known if name.endswith(f".{of_common}")]
        raise SpaceError(
            f"--set {override}: unknown key '{of_common}'; keys are written "
            f"section.key{closest(in_full[0] if in_full else of_common, [*known, *STUDY_KEYS])}"
        )
    put(tree, key, read_yaml(text, f"--set {override}"))
    tree.pop(INSTEAD_OF.get(key, ""), None)
    return key


def _key_in_variant(tree: Mapping[str, Any], key: str, override: str) -> str:
    """Return the `section.key` of `variants.NAME.section.key`; the variant must be there."""
    variants = tree.get("variants")
    name, _, of_common = key.removeprefix("variants.").partition(".")
    choose(variants if isinstance(variants, dict) else {}, name, f"--set {override}: variants")
    return of_common


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key, making the sections on the way."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    tree[name] = value


def merged(tree: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree with another over it, key by key; what is no map in both is replaced, a list as a whole."""
    result = dict(tree)
    for name, value in over.items():
        below = result.get(name)
        result[name] = merged(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return result


def with_defaults(tree: Mapping[str, Any], section: type[BaseModel] = Settings) -> dict[str, Any]:
    """Return a tree with the defaults of all keys that it lacks, in the order of the settings; the rest is kept."""
    full: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        below = _section_of(field.annotation)
        if name in tree:
            full[name] = with_defaults(tree[name], below) if below and isinstance(tree[name], dict) else tree[name]
        elif not field.is_required():
            default = field.get_default()
            full[name] = default.model_dump() if isinstance(default, BaseModel) else default
    return full | {name: value for name, value in tree.items() if name not in full}


def make_paths_absolute_(tree: Any) -> None:
    """Write files and folders in full, searched ones and those of variants too: peers run in other folders."""
    if isinstance(tree, list):
        for item in tree:
            make_paths_absolute_(item)
    elif isinstance(tree, dict):
        for name, value in tree.items():
            if name in PATHS and isinstance(value, str):
                tree[name] = _absolute(value, name)
            elif name in PATHS and is_domain(value) and isinstance(values := next(iter(value.values())), list):
                values[:] = [_absolute(one, name) for one in values]
            else:
                make_paths_absolute_(value)


def _absolute(path: Any, name: str) -> Any:
    try:
        return str(Path(path).expanduser().absolute()) if isinstance(path, str) else path
    except RuntimeError as error:  # of ~nobody
        raise SpaceError(
            f"{name}: begins with the home folder of a user that is not known here, got '{path}'; write "
            f"the path in full"
        ) from error


def known_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all keys of a section and of those below it."""
    for name, field in section.model_fields.items():
        below = _section_of(field.annotation)
        if below is None:
            yield prefix + name
        else:
            yield from known_keys(below, f"{prefix}{name}.")


def names_at(path: tuple[str | int, ...]) -> list[str]:
    """Return the names that a map can have at a place of the settings, such as (distillation, teachers, 0)."""
    section: Any = Settings
    for part in path:
        annotation = section.model_fields[part].annotation if isinstance(part, str) else section
        section = _section_of(annotation) or get_args(annotation)[0]
    return [*section.model_fields, *(() if path else STUDY_KEYS)]


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section class of a field, through `Section | None`, but not through a list of them."""
    candidates = () if get_origin(annotation) is list else get_args(annotation)
    for candidate in (annotation, *candidates):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
