"""A space: settings in which some keys are searched."""

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from graftpop.errors import SpaceError
from graftpop.settings import Settings
from graftpop.space.domains import Domain, is_domain, read_domain
from graftpop.space.messages import Origins, describe
from graftpop.space.rules import check_names, check_rules, check_search
from graftpop.space.tree import apply_override, put, read_sections

__all__ = ["Space", "load_space", "parse_space"]

SEARCHABLE = ("seed", "model", "training", "population", "graft")
DEFAULT_NUM_SAMPLES = 10


@dataclass(frozen=True)
class Space:
    """Settings in which some keys are searched.

    Attributes:
        tree: the sections as plain data, every searched key at the first value of its domain.
        domains: what is searched, by dotted name.
    """

    tree: Mapping[str, Any]
    domains: Mapping[str, Domain]

    def settle(self, sample: Mapping[str, Any] | None = None) -> Settings:
        """Return the settings with the searched keys as sampled; those that are not in the sample at their first."""
        tree = deepcopy(dict(self.tree))
        for key, value in (sample or {}).items():
            put(tree, key, value)
        return Settings.model_validate(tree)

    def sample(self, rng: random.Random) -> dict[str, Any]:
        """Return one value a searched key, drawn at random."""
        return {key: domain.sample(rng) for key, domain in self.domains.items()}

    def corners(self) -> Iterator[Settings]:
        """Yield settings that together hold every pair of extreme values of any two searched keys."""
        return map(self.settle, _corner_samples(self.domains))

    def largest_population(self) -> int:
        """Return the highest number of peers that a trial can have."""
        return max(settings.population.num_peers for settings in self.corners())

    def most_rounds(self) -> int:
        """Return the highest number of rounds that a trial can have."""
        return max(settings.num_rounds for settings in self.corners())

    def num_trials(self) -> int:
        """Return how many trials the study has."""
        tune = self.settle().tune
        if tune.search == "grid":
            return math.prod(len(domain.every_value()) for domain in self.domains.values())
        return tune.num_samples or DEFAULT_NUM_SAMPLES

    def to_yaml(self) -> str:
        """Return the space in full, defaults included, as a YAML text that reads back as this space."""
        tree = self.settle().model_dump()
        for key, domain in self.domains.items():
            put(tree, key, _OnOneLine({domain.kind: list(domain.values)}))
        return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=120)


class _OnOneLine(dict[str, Any]):
    """A map that is written as `{key: [values]}`."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, with domains on one line each."""


_Dumper.add_representer(_OnOneLine, lambda dumper, data: dumper.represent_mapping(
    "tag:yaml.org,2002:map", data, flow_style=True))


def load_space(path: str | Path, overrides: Iterable[str] = ()) -> Space:
    """Return the space of a YAML file with some keys set anew.

    Args:
        path: the file.
        overrides: `section.key=VALUE`, VALUE in YAML, later ones over earlier ones.

    Raises:
        SpaceError: the file cannot be read, or something in it cannot be accepted.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"{path}: cannot be read: {error}; --space needs a YAML file such as "
                         f"search_spaces/digits.yaml") from error
    tree = read_sections(text, str(path))
    origins = {}
    for override in overrides:
        key = apply_override(tree, override)
        origins[key] = f"--set {override}"
    data = tree.get("data")
    if isinstance(data, dict) and isinstance(data.get("root"), str):
        data["root"] = str(Path(data["root"]).expanduser().absolute())  # peers run in other folders
    return parse_space(tree, str(path), origins)


def parse_space(tree: Mapping[str, Any], where: str = "space", origins: Mapping[str, str] | None = None) -> Space:
    """Return the space that plain data describes.

    Args:
        tree: sections, keys and values, domains among them.
        where: what messages begin with.
        origins: for keys that did not come from there, what to begin with instead.

    Raises:
        SpaceError: something in it cannot be accepted.
    """
    origin = Origins(where, origins)
    domains: dict[str, Domain] = {}
    space = Space(_take_domains(deepcopy(dict(tree)), (), domains, origin), domains)
    for sample in _corner_samples(domains):
        try:
            settings = space.settle(sample)
        except ValidationError as error:
            raise SpaceError(describe(error, space.tree, sample, origin)) from error
        check_names(settings, origin)
        check_rules(settings, origin)
    check_search(space.settle(), domains, origin)
    return space


def _take_domains(node: dict[str, Any], path: tuple[str, ...], domains: dict[str, Domain],
                  origin: Origins) -> dict[str, Any]:
    """Return a tree in which each domain is replaced by its first value, and collect the domains."""
    for name, value in node.items():
        key = ".".join((*path, str(name)))
        if is_domain(value):
            if key.split(".")[0] not in SEARCHABLE:
                raise SpaceError(f"{origin(key)}: cannot be searched, got {value}; what is searched lies in "
                                 f"{', '.join(SEARCHABLE)}")
            domains[key] = read_domain(value, origin(key))
            node[name] = domains[key].corners[0]
        elif isinstance(value, dict):
            _take_domains(value, (*path, str(name)), domains, origin)
    return node


def _corner_samples(domains: Mapping[str, Domain]) -> Iterator[dict[str, Any]]:
    """Yield samples that together hold every pair of corner values of any two domains: rules tie two keys at most."""
    yield {key: domain.corners[0] for key, domain in domains.items()}
    for key, domain in domains.items():
        yield from ({key: value} for value in domain.corners)
    for (key, domain), (other_key, other) in itertools.combinations(domains.items(), 2):
        yield from ({key: value, other_key: other_value}
                    for value, other_value in itertools.product(domain.corners, other.corners))


