"""The keys that make a space a comparison: variants, seeds, baseline and published."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from graftpop.errors import SpaceError, choose, closest
from graftpop.settings import Settings
from graftpop.space.domains import Domain, is_domain
from graftpop.space.validation_messages import Origin, format_value
from graftpop.space.yaml_tree import known_keys

__all__ = ["check_overlap", "read_baseline", "read_published", "read_seeds", "read_variants"]

STUDY_ONLY: Final = ("name", "seed", "tune")
SECTIONS: Final = [name for name in Settings.model_fields if name not in STUDY_ONLY]


def read_variants(node: Any, origin: Origin) -> dict[str, dict[str, Any]]:
    """Return the sections of each variant by its name; empty if there are no variants.

    Args:
        node: value of the key `variants`.
        origin: see `Origin`.

    Raises:
        SpaceError: a name or a section is invalid, or a value is a domain.
    """
    if node is None:
        return {}
    if not isinstance(node, dict) or not node:
        raise SpaceError(
            f"{origin('variants')}: must be a map of one or more names to sections, got {format_value(node)}"
        )
    return {
        _checked_name(name, origin): _checked_sections(sections, f"variants.{name}", origin)
        for name, sections in node.items()
    }


def _checked_name(name: Any, origin: Origin) -> str:
    try:
        return Settings(name=name).name
    except ValidationError as error:
        raise SpaceError(
            f"{origin('variants')}: names must be up to 64 letters, digits, '.', '_' and '-', "
            f"starting with a letter or digit, got {format_value(name)}"
        ) from error


def _checked_sections(sections: Any, where: str, origin: Origin) -> dict[str, Any]:
    if sections is None:
        return {}
    if not isinstance(sections, dict):
        raise SpaceError(f"{origin(where)}: must be a map of sections, got {format_value(sections)}")
    for name in sections:
        if name in STUDY_ONLY:
            raise SpaceError(
                f"{origin(f'{where}.{name}')}: must be the same for the whole study, got it in one variant; set it "
                f"outside variants"
            )
        if name not in SECTIONS:
            raise SpaceError(
                f"{origin(f'{where}.{name}')}: unknown section '{name}'; choose from "
                f"{', '.join(SECTIONS)}{closest(str(name), SECTIONS)}"
            )
    for key, value in _leaves(sections):
        if is_domain(value):
            raise SpaceError(
                f"{origin(f'{where}.{key}')}: a variant must have fixed values, got {value}; search the key "
                f"outside variants, or write one variant per value"
            )
    return sections


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a tree with their values; domains and empty maps are values."""
    for name, value in tree.items():
        if isinstance(value, dict) and value and not is_domain(value):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check_overlap(variants: Mapping[str, Mapping[str, Any]], domains: Mapping[str, Domain], origin: Origin) -> None:
    """Check that no variant sets a searched key, since the searched value would replace the variant's.

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


def read_seeds(seeds: Any, origin: Origin) -> list[int]:
    """Return the seeds with which every variant is repeated.

    Raises:
        SpaceError: the value is not a list of distinct whole numbers in [0, 2**63).
    """
    is_list = isinstance(seeds, list) and bool(seeds)
    if not is_list or not all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds) or len({*seeds}) < len(seeds):
        raise SpaceError(
            f"{origin('seeds')}: must be a list of one or more distinct whole numbers, 0 or more, got "
            f"{format_value(seeds)}; write seeds: [0, 1, 2]"
        )
    return list(seeds)


def read_baseline(name: Any, variants: Mapping[str, Any], origin: Origin) -> str | None:
    """Return the variant that the others are compared with: the named one, else the first; None without variants.

    Raises:
        SpaceError: the named variant does not exist.
    """
    if not variants:
        if name is not None:
            raise SpaceError(
                f"{origin('baseline')}: must name a variant, got {format_value(name)} and no variants; "
                f"add variants, or remove it"
            )
        return None
    if name is None:
        return next(iter(variants))
    choose({str(variant): variant for variant in variants}, str(name), origin("baseline"))
    return str(name)


def read_published(node: Any, domains: Mapping[str, Domain], origin: Origin) -> dict[str, Any] | None:
    """Return the published numbers of a paper: `source`, and rows of `accuracy` in percent.

    A row has `percent` and `variant`, optionally `std`, and the values of searched keys that its accuracy belongs to.

    Raises:
        SpaceError: the form is wrong, or a row names a variant or a key that the space does not have.
    """
    if node is None:
        return None
    if "variant" not in domains:
        raise SpaceError(f"{origin('published')}: needs variants, got none; add variants, or remove it")
    if not isinstance(node, dict) or set(node) != {"source", "accuracy"}:
        got = list(node) if isinstance(node, dict) else node
        raise SpaceError(f"{origin('published')}: must be a map of source and accuracy, got {format_value(got)}")
    if not isinstance(node["source"], str) or not node["source"].strip():
        raise SpaceError(
            f"{origin('published.source')}: must be text that names the source, got {format_value(node['source'])}"
        )
    if not isinstance(node["accuracy"], list):
        raise SpaceError(
            f"{origin('published.accuracy')}: must be a list of rows, got {format_value(node['accuracy'])}"
        )
    for index, row in enumerate(node["accuracy"]):
        _check_row(row, f"published.accuracy[{index}]", domains, origin)
    return node


def _check_row(row: Any, where: str, domains: Mapping[str, Domain], origin: Origin) -> None:
    if not isinstance(row, dict) or not {"variant", "percent"} <= row.keys():
        raise SpaceError(f"{origin(where)}: must be a map with variant and percent, got {format_value(row)}")
    names = [*(key for key in domains if key != "seed"), "percent", "std"]
    for key in row:
        if key not in names:
            hint = closest(str(key), names)
            if key in known_keys(Settings):
                hint = "; to fix it, drop the published rows by --set published=null"
            raise SpaceError(f"{origin(where)}: '{key}' is not searched here; choose from {', '.join(names)}{hint}")
    variants = {name: name for name in domains["variant"].values}
    choose(variants, str(row["variant"]), origin(f"{where}.variant"))
    for key in sorted({"percent", "std"} & row.keys()):
        if type(row[key]) not in (int, float) or not 0 <= row[key] <= 100:
            raise SpaceError(
                f"{origin(f'{where}.{key}')}: must be a percentage in [0, 100], got {format_value(row[key])}"
            )
