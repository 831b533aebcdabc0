"""A space: settings with searched keys, and the variants that a comparison runs."""

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from graftpop.errors import SpaceError, closest
from graftpop.masking import masked
from graftpop.settings import Settings
from graftpop.settings.section import OnlyWith
from graftpop.space.boundary import boundary_samples, combinations
from graftpop.space.conditions import conditions_of, in_order
from graftpop.space.domains import Domain, is_domain, read_domain
from graftpop.space.renamed import check_renamed
from graftpop.space.validation_messages import Origin, Origins, VariantOrigins, describe, format_value
from graftpop.space.variants import check_overlap, check_published, read_comparison
from graftpop.space.yaml_tree import (
    MAX_CHARS,
    STUDY_KEYS,
    apply_override,
    default_of,
    make_paths_absolute_,
    merged,
    put,
    read_sections,
    with_defaults,
)

__all__ = ["Space", "load_space", "parse_space"]

FIXED = ("name", "diagnostics", "tune", "resources")
SEARCHABLE = tuple(name for name in Settings.model_fields if name not in FIXED)
DEFAULT_NUM_SAMPLES = 10
PUBLISHED = ("graft.A", "graft.c")
"""Keys whose defaults are the published values."""

MAX_BOUNDARY_SAMPLES = 100_000  # about 4 s of validation


@dataclass(frozen=True)
class Space:
    """Settings with searched keys, and variants of them.

    Attributes:
        tree: sections as plain data, with defaults; searched keys have the first value of their domain.
        domains: domains of the searched keys, by dotted key; `variant` comes first if there are variants.
        variants: sections laid over `tree` key by key, by the variant's name; empty if the space has no variants.
        baseline: the variant that the others are compared with; None without variants.
        published: `source` and `accuracy` of a paper, see `PublishedSettings`.
        storage_url: `tune.optuna_storage` with its password, which `tree` masks; never printed, written or pickled.
    """

    tree: Mapping[str, Any]
    domains: Mapping[str, Domain]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    baseline: str | None = None
    published: Mapping[str, Any] | None = None
    storage_url: str | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "storage_url": None}

    def resolve(self, sample: Mapping[str, Any] | None = None) -> Settings:
        """Return the settings of a sample; searched keys that it omits have the first value of their domain."""
        return Settings.model_validate(self.merged_tree(sample or {}))

    def merged_tree(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tree that `resolve` validates: `tree`, overlaid by the variant and then by the sampled values."""
        variant = self.variants[sample.get("variant", next(iter(self.variants)))] if self.variants else {}
        tree = deepcopy(merged(self.tree, variant))
        for key, value in sample.items():
            if key != "variant":
                put(tree, key, deepcopy(value))
        return tree

    def sample_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the sample of a trial from its row of `trials.parquet`, restored."""
        return self.active({key: row[key] for key in self.domains})

    def complete(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return a sample with the first value of each domain for the keys that it omits."""
        return {**{key: domain.boundary_values[0] for key, domain in self.domains.items()}, **sample}

    def sample(self, rng: random.Random, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return random values of the searched keys that matter; those given are kept."""
        return self.active({**{key: domain.sample(rng) for key, domain in self.domains.items()}, **(given or {})})

    @cached_property
    def first(self) -> Sequence[Mapping[str, Any]]:
        """The values that the first trials get (`tune.first`), with the values that make them matter."""
        tune = self.resolve().tune
        published = {key: default_of(key) for key in PUBLISHED if key in self.domains}
        lie_inside = all(self.domains[key].contains(value) for key, value in published.items())
        default = [published] if published and lie_inside and tune.sampler != "grid" else []
        return [self._with_needed(given) for given in (default if tune.first is None else tune.first)]

    def _with_needed(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return a part of a sample with values of other searched keys that make its keys matter."""
        needed = {
            on.key: next(value for value in self.domains[on.key].boundary_values if value in on.values)
            for key in sample
            for on in conditions_of(key, self.domains)
            if on.key in self.domains and on.key not in sample
        }
        return needed | dict(sample)

    def active(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return a sample without the keys that cannot matter under the others' values."""
        chosen: dict[str, Any] = {}
        for key in self.domains:
            if key in sample and self.is_active(key, chosen):
                chosen[key] = sample[key]
        return chosen

    def is_active(self, key: str, chosen: Mapping[str, Any]) -> bool:
        """Return whether a searched key matters.

        Args:
            key: a searched key.
            chosen: values of the keys before it in `domains`, those that matter; fixed or first values replace others.
        """
        return all(self.value_of(on.key, chosen) in on.values for on in conditions_of(key, self.domains))

    def value_of(self, key: str, chosen: Mapping[str, Any]) -> Any:
        """Return the value of a key, or of a whole section, in a sample; None if its section is off."""
        section, _, name = key.partition(".")
        if key in chosen:
            return chosen[key]
        if not name:
            return self.domains[key].values[0]
        variant = self.variants[chosen.get("variant", next(iter(self.variants)))] if self.variants else {}
        for tree in [chosen] if section in chosen else [variant, self.tree]:
            if section in tree and tree[section] is None:
                return None
            if name in tree.get(section, ()):
                return tree[section][name]
        return default_of(key)

    def boundary_settings(self) -> Iterator[Settings]:
        """Yield settings that cover, in every variant, all pairs of boundary values of any two searched keys."""
        return map(self.resolve, self.boundary_samples())

    def boundary_samples(self) -> Iterator[dict[str, Any]]:
        """Yield the samples of `boundary_settings`, each with the values that make its keys matter."""
        return (self.active(self._with_needed(sample)) for sample in boundary_samples(self.domains))

    def settings_of(self, *sections: str) -> Iterator[Settings]:
        """Yield settings that cover, in every variant, all combinations of the values searched in some sections.

        Args:
            sections: names of sections; a range in them is represented by its boundary values.
        """
        samples = combinations(
            {
                key: domain.boundary_values
                for key, domain in self.domains.items()
                if key == "variant" or key.split(".")[0] in sections
            }
        )
        return (self.resolve(self.active(sample)) for sample in samples)

    def most_rounds(self) -> int:
        """Return the largest number of rounds that a trial can have."""
        return max(settings.num_rounds for settings in self.boundary_settings())

    def num_trials(self) -> int:
        """Return the number of trials of the study."""
        tune = self.resolve().tune
        if tune.sampler == "grid":
            if any(conditions_of(key, self.domains) for key in self.domains):
                return len(self.grid)
            return math.prod(len(domain.every_value()) for domain in self.domains.values())
        return tune.num_samples or DEFAULT_NUM_SAMPLES

    @cached_property
    def grid(self) -> Sequence[Mapping[str, Any]]:
        """Every combination of the values of finite domains, without keys that cannot matter."""
        samples: list[dict[str, Any]] = [{}]
        for key, domain in self.domains.items():  # in order: later keys need earlier ones
            samples = [
                extended
                for sample in samples
                for extended in (
                    ({**sample, key: value} for value in domain.every_value())
                    if self.is_active(key, sample)
                    else (sample,)
                )
            ]
        return samples

    def to_yaml(self) -> str:
        """Return the space as YAML, with defaults; `parse_space` reads it back as an equal space."""
        tree = deepcopy(dict(self.tree))
        for key, domain in self.domains.items():
            if key != "variant" and domain.only_with is None:
                put(tree, key, _OnOneLine({domain.kind: [self._with_domains(key, value) for value in domain.values]}))
        if self.variants:
            tree |= {"baseline": self.baseline, "variants": dict(self.variants)}
        if self.published is not None:
            tree["published"] = {**self.published, "accuracy": [_OnOneLine(row) for row in self.published["accuracy"]]}
        return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=120)

    def _with_domains(self, section: str, choice: Any) -> Any:
        """Return a choice of a section with the domains that are searched inside it."""
        inside = {
            key.removeprefix(f"{section}."): {domain.kind: list(domain.values)}
            for key, domain in self.domains.items()
            if domain.only_with and domain.only_with.key == section and choice in domain.only_with.values
        }
        return choice | inside if inside else choice


class _OnOneLine(dict[str, Any]):
    """A map that YAML writes on one line, as `{key: [values]}`."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper with each `_OnOneLine` on one line, and repeated objects written out, not aliased."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _OnOneLine, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)
)


def load_space(path: str | Path, overrides: Iterable[str] = ()) -> Space:
    """Return the space of a YAML file after applying overrides.

    Args:
        path: path of the file.
        overrides: `section.key=VALUE` with VALUE in YAML; later ones win. Values of variants win over overrides of the
            common sections.

    Raises:
        SpaceError: the file cannot be read, or the space is invalid.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_CHARS + 1)  # `read_yaml` refuses the extra character
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(
            f"{path}: cannot be read: {error}; --space needs a YAML file such as search_spaces/digits.yaml"
        ) from error
    tree = read_sections(text, str(path))
    origins = {}
    for override in overrides:
        key = apply_override(tree, override)
        origins[key] = f"--set {override}"
    make_paths_absolute_(tree)
    return parse_space(tree, str(path), origins)


def parse_space(tree: Mapping[str, Any], where: str = "space", origins: Mapping[str, str] | None = None) -> Space:
    """Return the space that plain data describes.

    Args:
        tree: sections, whose values may be domains, and optionally variants, seeds, baseline and published.
        where: name of the source, at the start of messages.
        origins: options by the key or section that they set, at the start of messages instead of `where`.

    Raises:
        SpaceError: the space is invalid.
    """
    # imported here, since the tables of names need torch, and the process that leads a trial does without it
    from graftpop.space.constraints import check_effect, check_search

    check_renamed(tree, where, origins or {})
    origin = Origins(where, origins)
    sections = deepcopy({name: value for name, value in tree.items() if name not in STUDY_KEYS})
    comparison = read_comparison(tree, origin)
    variants = {name: changes or {} for name, changes in deepcopy(comparison.variants or {}).items()}
    is_comparison = bool(variants) or comparison.seeds is not None
    if comparison.seeds is not None:
        _put_seeds(sections, comparison.seeds, origin)
    if is_comparison and isinstance(sections.setdefault("tune", {}), dict):
        sections["tune"].setdefault("sampler", "grid")
    domains: dict[str, Domain] = {"variant": Domain("grid", tuple(variants))} if variants else {}
    common = with_defaults(_take_domains(sections, (), domains, origin))
    domains = in_order(domains)
    storage_url = _mask_storage_(common)
    check_overlap(variants, domains, origin)
    check_published(comparison, domains, origin)
    space = Space(
        common,
        domains,
        variants,
        comparison.baseline or next(iter(variants), None),
        deepcopy(tree.get("published")),
        storage_url,
    )
    of_variant = {name: VariantOrigins(origin, name, variants[name], common) for name in variants}
    if sum(1 for _ in islice(boundary_samples(domains), MAX_BOUNDARY_SAMPLES + 1)) > MAX_BOUNDARY_SAMPLES:
        raise SpaceError(
            f"{where}: must have at most {MAX_BOUNDARY_SAMPLES} pairs of searched values, since each is validated, "
            f"got more; search ranges instead of long lists, or fewer variants"
        )
    for sample in combinations({"variant": tuple(variants)} if variants else {}):
        check_effect(domains, partial(space.value_of, chosen=sample), of_variant.get(sample.get("variant", ""), origin))
    for sample in space.boundary_samples():
        _check(space, sample, of_variant.get(sample.get("variant", ""), origin))
    check_search(space.resolve(), domains, origin, is_comparison=is_comparison)
    _check_first(space, origin)
    return space


def _check_first(space: Space, origin: Origin) -> None:
    """Check the values to try first.

    Raises:
        SpaceError: a key is not searched, a value lies outside its domain, a key cannot matter, or there are too many.
    """
    given = space.resolve().tune.first or []
    where = origin("tune.first")
    if given and space.resolve().tune.sampler == "grid":
        raise SpaceError(f"{where}: must be null with sampler grid, got {given}; remove it")
    if len(given) > space.num_trials():
        raise SpaceError(
            f"{where}: must have at most as many items as trials ({space.num_trials()}), got {len(given)}; set "
            f"tune.num_samples: {len(given)}"
        )
    for sample in given:
        for key, value in sample.items():
            if key not in space.domains:
                names = list(space.domains)
                raise SpaceError(
                    f"{where}: '{key}' is not searched, choose from {', '.join(names)}{closest(key, names)}"
                )
            if not space.domains[key].contains(value):
                raise SpaceError(
                    f"{where}: {key} must lie in its domain {space.domains[key]}, got {format_value(value)}; change one"
                )
        for key in sample.keys() - space.active(space._with_needed(sample)).keys():
            raise SpaceError(f"{where}: {key} has no effect beside the other values, got {sample}; remove it")


def _check(space: Space, sample: Mapping[str, Any], origin: Origin) -> None:
    """Check the settings of a sample against types, names and rules."""
    from graftpop.space.constraints import check_names, check_rules
    from graftpop.space.method_constraints import check_methods

    try:
        settings = space.resolve(sample)
    except ValidationError as error:
        of_value = origin.of_value if isinstance(origin, VariantOrigins) else origin
        raise SpaceError(describe(error, space.merged_tree(sample), sample, of_value)) from error
    check_names(settings, origin)
    check_rules(settings, space.domains, origin)
    check_methods(settings, origin)


def _mask_storage_(tree: dict[str, Any]) -> str | None:
    """Mask the password of `tune.optuna_storage` in place, and return the value with its password."""
    tune = tree["tune"]
    url = tune.get("optuna_storage") if isinstance(tune, dict) else None
    if not isinstance(url, str):
        return None
    tune["optuna_storage"] = masked(url)
    return url


def _put_seeds(sections: dict[str, Any], seeds: list[int], origin: Origin) -> None:
    if "seed" in sections:
        raise SpaceError(f"{origin('seeds')}: excludes seed, got {seeds} beside seed {sections['seed']}; remove one")
    sections["seed"] = {"grid": seeds}


def _take_domains(
    node: dict[str, Any], path: tuple[str, ...], domains: dict[str, Domain], origin: Origin
) -> dict[str, Any]:
    """Replace each domain of a tree by its first value, collect it in `domains`, and return the tree."""
    for name, value in node.items():
        key = ".".join((*path, str(name)))
        if is_domain(value):
            domains[key] = _read_domain(key, value, origin)
            if not path:
                domains |= _take_inner_domains(key, domains, origin)
            node[name] = domains[key].boundary_values[0]
        elif isinstance(value, dict):
            _take_domains(value, (*path, str(name)), domains, origin)
    return node


def _read_domain(key: str, value: Mapping[str, Any], origin: Origin) -> Domain:
    if key.split(".")[0] not in SEARCHABLE:
        raise SpaceError(
            f"{origin(key)}: cannot be searched, got {value}; fix it, or search in {', '.join(SEARCHABLE)}"
        )
    if key.split(".")[0] == "data" and not {"choice", "grid"} & value.keys():
        raise SpaceError(
            f"{origin(key)}: data must be searched by choice or grid, since every data set is read "
            f"before the study starts, got {value}; list the values"
        )
    return read_domain(value, origin(key))


def _take_inner_domains(section: str, domains: Mapping[str, Domain], origin: Origin) -> dict[str, Domain]:
    """Return the domain of a section without the domains inside its choices, and these with their conditions."""
    whole = domains[section]
    inner: dict[str, Domain] = {}
    choices: list[Any] = []
    for choice in whole.values:
        found = {name: value for name, value in choice.items() if is_domain(value)} if isinstance(choice, dict) else {}
        fixed = {name: value for name, value in choice.items() if name not in found} if found else choice
        if fixed in choices:
            raise SpaceError(
                f"{origin(section)}: choices must differ in a fixed value, got {fixed} twice beside domains; merge them"
            )
        choices.append(fixed)
        for name, value in found.items():
            key = f"{section}.{name}"
            domain = _read_domain(key, value, origin)
            before = inner.get(key, domain)
            if (before.kind, before.values) != (domain.kind, domain.values):
                raise SpaceError(
                    f"{origin(key)}: must have the same domain in every choice, got {before} and {domain}; use one"
                )
            others = before.only_with.values if before.only_with else ()
            inner[key] = replace(domain, only_with=OnlyWith(section, (*others, fixed)))
    return {section: replace(whole, values=tuple(choices)), **inner}
