"""Checks of the keys that make a space a comparison: variants, seeds, baseline, compare and published."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from graftpop.errors import SpaceError, choose, closest
from graftpop.settings import ComparisonSettings, Settings
from graftpop.space.domains import Domain, is_domain
from graftpop.space.keys import STUDY_KEYS, known_keys
from graftpop.space.validation_messages import Origin, describe, format_value

__all__ = ["check_overlap", "check_published", "read_comparison"]

STUDY_ONLY: Final = ("name", "seed", "tune")
SECTIONS: Final = [name for name in Settings.model_fields if name not in STUDY_ONLY]


def read_comparison(tree: Mapping[str, Any], origin: Origin) -> ComparisonSettings:
    """Return the keys that make a space a comparison; `check_published` checks the rest of `published`.

    Args:
        tree: the whole space as plain data.
        origin: see `Origin`.

    Raises:
        SpaceError: a key is invalid, or names a variant that does not exist; a value of a variant is a domain.
    """
    study = {name: tree.get(name) for name in STUDY_KEYS}
    for key in ("baseline", "compare", "published"):
        if study[key] is not None and study["variants"] is None:
            got = "none" if key == "published" else f"{format_value(study[key])} and no variants"
            raise SpaceError(f"{origin(key)}: needs variants, got {got}; add variants, or remove it")
    try:
        comparison = ComparisonSettings.model_validate(study)
    except ValidationError as error:
        raise SpaceError(describe(error, study, {}, origin)) from error
    variants = comparison.variants or {}
    for name, sections in variants.items():
        _check_sections(sections or {}, f"variants.{name}", origin)
    if comparison.baseline is not None:
        choose(variants, comparison.baseline, origin("baseline"))
    return comparison


def _check_sections(sections: Mapping[str, Any], where: str, origin: Origin) -> None:
    for name in sections:
        if name in STUDY_ONLY:
            raise SpaceError(
                f"{origin(f'{where}.{name}')}: must be the same for the whole study, got it in one variant; set it "
                f"outside variants"
            )
        if name not in SECTIONS:
            raise SpaceError(
                f"{origin(f'{where}.{name}')}: unknown section '{name}'; choose from "
                f"{', '.join(SECTIONS)}{closest(name, SECTIONS)}"
            )
    for key, value in _leaves(sections):
        if is_domain(value):
            raise SpaceError(
                f"{origin(f'{where}.{key}')}: a variant must have fixed values, got {value}; search the key "
                f"outside variants, or write one variant per value"
            )


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a tree with their values; domains and empty maps are values."""
    for name, value in tree.items():
        if isinstance(value, dict) and value and not is_domain(value):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check_overlap(variants: Mapping[str, Mapping[str, Any]], domains: Mapping[str, Domain], origin: Origin) -> None:
    """Check that no variant sets a searched key: the searched value would replace the variant's value.

    Raises:
        SpaceError: a variant sets a searched key, a section around it, or a key inside a searched section.
    """
    for name, sections in variants.items():
        for key, value in _leaves(sections):
            for searched in domains:
                inside = f"{searched}.".startswith(f"{key}.") and value != {}
                if inside or f"{key}.".startswith(f"{searched}."):
                    raise SpaceError(
                        f"{origin(f'variants.{name}.{key}')}: cannot be set in a variant, since {searched} is "
                        f"searched, got {format_value(value)}; remove it, or do not search {searched}"
                    )


def check_published(comparison: ComparisonSettings, domains: Mapping[str, Domain], origin: Origin) -> None:
    """Check that every published score belongs to a variant and to searched keys.

    Raises:
        SpaceError: a score names a variant or a key that the space does not have.
    """
    names = [*(key for key in domains if key != "seed"), "percent", "std"]
    for index, row in enumerate(comparison.published.scores if comparison.published else ()):
        where = f"published.scores[{index}]"
        for key in row.model_extra or ():
            if key not in names:
                is_key = key in known_keys(Settings)
                hint = "; to fix it, drop the published rows by --set published=null" if is_key else closest(key, names)
                raise SpaceError(f"{origin(where)}: '{key}' is not searched here; choose from {', '.join(names)}{hint}")
        choose(comparison.variants or {}, row.variant, origin(f"{where}.variant"))
