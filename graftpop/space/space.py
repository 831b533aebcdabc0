"""A space: settings with searched keys, and the variants that a comparison runs."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import yaml

from graftpop.metrics import Metric
from graftpop.settings import Accounting, Settings
from graftpop.space.boundary import boundary_samples, combinations
from graftpop.space.conditions import conditions_of
from graftpop.space.domains import Domain
from graftpop.space.keys import default_of
from graftpop.space.yaml_text import read_numbers_
from graftpop.space.yaml_tree import copied, merged, put, value_at

__all__ = ["Space"]

DEFAULT_NUM_SAMPLES = 10
PUBLISHED = ("graft.A", "graft.c")
"""Keys whose defaults are the published values."""


@dataclass(frozen=True)
class Space:
    """Settings with searched keys, and variants of them.

    Attributes:
        tree: sections as plain data, with defaults; searched keys have the first value of their domain.
        domains: domains of the searched keys, by dotted key; `variant` comes first if there are variants.
        variants: sections laid over `tree` key by key, by the variant's name; empty if the space has no variants.
        baseline: the variant that the others are compared with; None without variants.
        equal: the cost that all variants have in common, see `CompareSettings`.
        published: `source` and `scores` of a paper, see `PublishedSettings`.
        storage_url: `tune.optuna_storage` with its password, which `tree` masks; never printed, written or pickled.
    """

    tree: Mapping[str, Any]
    domains: Mapping[str, Domain]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    baseline: str | None = None
    equal: Accounting = "images"
    published: Mapping[str, Any] | None = None
    storage_url: str | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "storage_url": None}

    def resolve(self, sample: Mapping[str, Any] | None = None) -> Settings:
        """Return the settings of a sample; searched keys that it omits have the first value of their domain."""
        return Settings.model_validate(self.merged_tree(sample or {}))

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of the task, the primary first; the same in all trials."""
        return self.resolve().metrics

    @property
    def primary(self) -> Metric:
        """The metric that selects peers and trials."""
        return self.metrics[0]

    def merged_tree(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tree that `resolve` validates: `tree`, overlaid by the variant and then by the sampled values.

        A user's Tuner samples in any order, and keys of a section that its own choice leaves out.
        """
        variant = self.variants[sample.get("variant", next(iter(self.variants)))] if self.variants else {}
        tree: dict[str, Any] = copied(merged(self.tree, variant))
        for key, value in sorted(sample.items(), key=lambda item: item[0].count(".")):  # sections before their keys
            section, _, name = key.partition(".")
            if key != "variant" and not (name and sample.get(section, tree) is None):
                put(tree, key, copied(value))
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
        return [self.with_needed(given) for given in (default if tune.first is None else tune.first)]

    def with_needed(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return a part of a sample with values of other searched keys that make its keys matter."""
        needed = {
            on.key: next(value for value in self.domains[on.key].boundary_values if on.allows(value))
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
        return all(on.allows(self.value_of(on.key, chosen)) for on in conditions_of(key, self.domains))

    def value_of(self, key: str, chosen: Mapping[str, Any]) -> Any:
        """Return the value of a key, or of a whole section, in a sample; None if its section is off."""
        names = key.split(".")
        for length in range(len(names), 0, -1):
            if (around := ".".join(names[:length])) in chosen:
                return value_at(chosen[around], names[length:], default_of(key))
        if len(names) == 1:
            return self.domains[key].values[0]
        variant = self.variants[chosen.get("variant", next(iter(self.variants)))] if self.variants else {}
        return value_at(variant, names, value_at(self.tree, names, default_of(key)))

    def boundary_settings(self) -> Iterator[Settings]:
        """Yield settings that cover, in every variant, all pairs of boundary values of any two searched keys."""
        return map(self.resolve, self.boundary_samples())

    def boundary_samples(self) -> Iterator[dict[str, Any]]:
        """Yield the samples of `boundary_settings`, each with the values that make its keys matter."""
        return (self.active(self.with_needed(sample)) for sample in boundary_samples(self.domains))

    def settings_of(self, *sections: str) -> Iterator[Settings]:
        """Yield settings that cover, in every variant, all combinations of the values searched in some sections.

        Args:
            sections: names of sections; a range in them is represented by its boundary values, and a single argument of
                a network by its first value, since `boundary_settings` pairs it with all others.
        """
        samples = combinations(
            {
                key: domain.boundary_values
                for key, domain in self.domains.items()
                if key == "variant" or (key.split(".")[0] in sections and key.count(".") < 2)
            }
        )
        return (self.resolve(self.active(sample)) for sample in samples)

    def most_rounds(self) -> int:
        """Return the largest number of rounds that a trial can have."""
        return max(settings.num_rounds for settings in self.boundary_settings())

    def most_epochs(self) -> int:
        """Return the largest number of epochs that all peers of a trial can train together."""
        return max(settings.trained_epochs for settings in self.boundary_settings())

    def num_trials(self) -> int:
        """Return the number of trials of the study."""
        tune = self.resolve().tune
        if tune.sampler == "grid":
            if any(conditions_of(key, self.domains) for key in self.domains):
                return len(self.grid)
            return math.prod(len(domain.every_value()) for domain in self.domains.values())
        return tune.num_samples or (DEFAULT_NUM_SAMPLES if self.domains else 1)

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
        tree = copied(dict(self.tree))
        for key, domain in self.domains.items():
            if key != "variant" and domain.only_with is None:
                put(tree, key, _OnOneLine({domain.kind: [self._with_domains(key, value) for value in domain.values]}))
        if self.variants:
            compare = _OnOneLine({"equal": self.equal})
            tree |= {"baseline": self.baseline, "compare": compare, "variants": dict(self.variants)}
        if self.published is not None:
            tree["published"] = {**self.published, "scores": [_OnOneLine(row) for row in self.published["scores"]]}
        return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=120)

    def _with_domains(self, section: str, choice: Any) -> Any:
        """Return a choice of a section with the domains that are searched inside it."""
        inside = {
            key.removeprefix(f"{section}."): {domain.kind: list(domain.values)}
            for key, domain in self.domains.items()
            if domain.only_with and domain.only_with.key == section and domain.only_with.allows(choice)
        }
        if not inside:
            return choice
        whole = copied(choice)
        for key, domain in inside.items():
            put(whole, key, domain)
        return whole


class _OnOneLine(dict[str, Any]):
    """A map that YAML writes on one line, as `{key: [values]}`."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper with each `_OnOneLine` on one line, and repeated objects written out, not aliased."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


read_numbers_(_Dumper)
_Dumper.add_representer(
    _OnOneLine, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, flow_style=True)
)
