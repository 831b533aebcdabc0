"""Plain data of YAML files: safe reading, overrides by dotted keys, and merging.

Reading is fast for any input and returns only maps, lists, one-line strings, numbers, booleans and nulls. Size, depth
and number of nodes are bounded. Aliases are refused, so the data is never larger than the text.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import yaml
from pydantic import BaseModel

from graftpop.errors import SpaceError, choose, closest, one_line
from graftpop.settings import ComparisonSettings, Settings
from graftpop.space.domains import is_domain
from graftpop.space.renamed import new_name

__all__ = [
    "MAX_CHARS",
    "STUDY_KEYS",
    "apply_override",
    "copied",
    "default_of",
    "keys_named",
    "known_keys",
    "make_paths_absolute_",
    "maps_of_values",
    "merged",
    "names_at",
    "put",
    "read_exponents_",
    "read_sections",
    "read_yaml",
    "section_of",
    "value_at",
    "with_defaults",
]

STUDY_KEYS = tuple(ComparisonSettings.model_fields)
"""Top-level keys beside the sections, which make a space a comparison."""

PATHS = ("root", "checkpoint", "density_of")
"""Keys whose values are paths, in any section."""

INSTEAD_OF = {"seed": "seeds", "seeds": "seed"}
"""Keys that exclude each other: an override of one removes the other."""

# the longest space of the project has 12,000 characters, 336 nodes and a depth of 7
MAX_CHARS: Final = 2**20
MAX_NODES: Final = 10_000  # keys, values, maps and lists
MAX_DEPTH: Final = 32
MAX_SCALAR_CHARS: Final = 4096  # the longest path on Linux
SMALLEST: Final = 1e-100  # smallest number above 0; the largest is its inverse

YAML: Final = "tag:yaml.org,2002:"
EXPONENT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+$")
"""A number with an exponent, in YAML 1.2. PyYAML follows YAML 1.1, where it needs a point and a sign: `1.0e+4`."""
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
        if (value := super().construct_yaml_int(node)).bit_length() > 64:
            raise _refusal("whole number of more than 64 bits", node)
        return value

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Construct a number small and large enough that sums and quotients stay finite."""
        value = super().construct_yaml_float(node)
        is_number = math.isfinite(value) or EXPONENT.match(node.value)  # 1e400 is infinite in Python
        if value and is_number and not SMALLEST <= abs(value) <= 1 / SMALLEST:
            raise _refusal(f"number beyond {SMALLEST:g} to {1 / SMALLEST:g}", node)
        return value


_PlainLoader.yaml_constructors = {
    tag: constructor for tag, constructor in yaml.SafeLoader.yaml_constructors.items() if tag in PLAIN_KINDS
}
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != YAML + "timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_exponents_(kind: type[yaml.SafeLoader] | type[yaml.SafeDumper]) -> None:
    """Let a loader read `1e-2` as a number, in place; a dumper then quotes such text."""
    kind.add_implicit_resolver(YAML + "float", EXPONENT, list("-+.0123456789"))


read_exponents_(_PlainLoader)
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


def apply_override(tree: dict[str, Any], override: str) -> str:
    """Apply `key=value` to a tree, or `variants.NAME.key=value` to one of its variants, and return the key.

    Raises:
        SpaceError: the override has another form, its key is unknown, or its value is not valid YAML.
    """
    key, equals, text = override.partition("=")
    key = key.strip()
    if NOT_ON_ONE_LINE.search(override):
        raise SpaceError(
            f"--set {key[:60]!a}: must be one line without control characters; write lists as [1, 2], maps as {{a: 1}}"
        )
    if not equals or not key:
        raise SpaceError(f"--set {override}: must be KEY=VALUE, such as --set training.epochs=6")
    known = [*known_keys(Settings), *known_keys(ComparisonSettings)]
    settings_key = _key_in_variant(tree, key, override) if key.startswith("variants.") else key
    if (new := new_name(settings_key)) is not None:
        raise SpaceError(f"--set {override}: renamed to {new}; write {key.removesuffix(settings_key)}{new}")
    is_in_map = settings_key.startswith(tuple(f"{name}." for name in maps_of_values(Settings)))
    if settings_key not in (*known, *Settings.model_fields, *STUDY_KEYS) and not is_in_map:
        in_full = [name for name in known if name.endswith(f".{settings_key}")]
        raise SpaceError(
            f"--set {override}: unknown key '{settings_key}'; write it as "
            f"section.key{closest(in_full[0] if in_full else settings_key, known)}"
        )
    put(tree, key, read_yaml(text, f"--set {override}"))
    tree.pop(INSTEAD_OF.get(key, ""), None)
    return key


def _key_in_variant(tree: Mapping[str, Any], key: str, override: str) -> str:
    """Return the `section.key` of `variants.NAME.section.key`, after checking that the variant exists."""
    variants = tree.get("variants")
    name, _, settings_key = key.removeprefix("variants.").partition(".")
    choose(variants if isinstance(variants, dict) else {}, name, f"--set {override}: variants")
    return settings_key


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a dotted key in place, creating missing sections."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    tree[name] = value


def copied(tree: Any) -> Any:
    """Return plain data with new maps and lists, at a third of the time that `copy.deepcopy` takes."""
    if isinstance(tree, dict):
        return {name: copied(value) for name, value in tree.items()}
    return [copied(item) for item in tree] if isinstance(tree, list) else tree


def merged(tree: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree overlaid by another: maps are merged key by key, other values and lists are replaced."""
    result = dict(tree)
    for name, value in over.items():
        below = result.get(name)
        result[name] = merged(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    return result


def with_defaults(tree: Mapping[str, Any], section: type[BaseModel] = Settings) -> dict[str, Any]:
    """Return a tree with defaults for missing keys, in the order of the settings; unknown keys come last."""
    full: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        below = section_of(field.annotation)
        if name in tree:
            full[name] = with_defaults(tree[name], below) if below and isinstance(tree[name], dict) else tree[name]
        elif not field.is_required():
            default = field.default
            full[name] = default.model_dump() if isinstance(default, BaseModel) else field.get_default()
    return full | {name: value for name, value in tree.items() if name not in full}


def make_paths_absolute_(tree: Any) -> None:
    """Make all paths absolute in place, also in domains and variants, since peers run in other folders."""
    if isinstance(tree, list):
        for item in tree:
            make_paths_absolute_(item)
    elif isinstance(tree, dict):
        for name, value in tree.items():
            if name in PATHS and isinstance(value, str):
                tree[name] = _absolute(value, name)
            elif name in PATHS and is_domain(value) and isinstance(values := next(iter(value.values())), list):
                values[:] = [_absolute(item, name) for item in values]
            elif name != "args":  # arguments of a network are passed as they are
                make_paths_absolute_(value)


def _absolute(path: Any, name: str) -> Any:
    try:
        return str(Path(path).expanduser().absolute()) if isinstance(path, str) else path
    except RuntimeError as error:  # from a path such as ~nobody
        raise SpaceError(
            f"{name}: must not start with the home folder of an unknown user, got '{path}'; write the absolute path"
        ) from error


def known_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a section and of the sections below it."""
    for name, field in section.model_fields.items():
        below = section_of(field.annotation)
        if below is None or _is_open(below):
            yield prefix + name
        else:
            yield from known_keys(below, f"{prefix}{name}.")


def keys_named(name: str) -> list[str]:
    """Return the dotted keys of the settings that end with a name; for a section that has a name, the key of that.

    >>> keys_named("patience"), keys_named("model"), keys_named("optimizer")
    (['training.patience'], ['model.name'], ['training.optimizer.name'])
    """
    found = [key for key in known_keys(Settings) if f".{key}".endswith(f".{name}") or key == f"{name}.name"]
    return [key if default_of(f"{key}.name") is None else f"{key}.name" for key in found]


def maps_of_values(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys whose value is a map of further names, such as `model.args` and `training.optimizer`."""
    for name, field in section.model_fields.items():
        below = section_of(field.annotation)
        if below is not None and _is_open(below):
            yield prefix + name
        elif below is not None:
            yield from maps_of_values(below, f"{prefix}{name}.")
        elif get_origin(field.annotation) is dict:
            yield prefix + name


def _is_open(section: type[BaseModel]) -> bool:
    """Return whether a section may have keys of any name beside its own."""
    return section.model_config.get("extra") == "allow"


def value_at(tree: Any, names: Sequence[str], default: Any) -> Any:
    """Return the value at a path of nested maps: `default` if a name is missing, None below a null."""
    for name in names:
        if tree is None:
            return None
        if not isinstance(tree, Mapping) or name not in tree:
            return default
        tree = tree[name]
    return tree


def names_at(path: tuple[str | int, ...]) -> list[str]:
    """Return the keys that a map may have at a path of the settings, such as ("distillation", "teachers", 0)."""
    section: Any = ComparisonSettings if path and path[0] in STUDY_KEYS else Settings
    for part in path:
        annotation = section.model_fields[part].annotation if isinstance(part, str) else section
        section = section_of(annotation) or get_args(annotation)[0]
    return [*section.model_fields, *(() if path else STUDY_KEYS)]


def default_of(key: str) -> Any:
    """Return the default of a `section.key`; None for an argument, such as `training.optimizer.betas`."""
    below: type[BaseModel] | None = Settings
    *sections, name = key.split(".")
    for section in sections:
        below = section_of(below.model_fields[section].annotation) if below else None
    field = below.model_fields.get(name) if below else None
    return field.get_default() if field else None


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section class of a field typed `Section` or `Section | None`; None for other fields and for lists."""
    candidates = () if get_origin(annotation) is list else get_args(annotation)
    for candidate in (annotation, *candidates):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
