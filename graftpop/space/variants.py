"""What makes a comparison of a space: named settings over the common ones, seeds, a baseline, and published numbers."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from graftpop.errors import SpaceError, choose, closest
from graftpop.settings import Settings
from graftpop.space.domains import Domain, is_domain
from graftpop.space.validation_messages import Origin, shown
from graftpop.space.yaml_tree import known_keys

__all__ = ["check_overlap", "read_baseline", "read_published", "read_seeds", "read_variants"]

OF_THE_STUDY: Final = ("name", "seed", "tune")
SECTIONS: Final = [name for name in Settings.model_fields if name not in OF_THE_STUDY]


def read_variants(node: Any, origin: Origin) -> dict[str, dict[str, Any]]:
    """Return the sections of each variant by its name; none where there are no variants.

    Raises:
        SpaceError: a name, a section or something in it cannot be accepted.
    """
    if node is None:
        return {}
    if not isinstance(node, dict) or not node:
        raise SpaceError(f"{origin('variants')}: must be a map of one or more names to sections, got {shown(node)}")
    return {
        _checked_name(name, origin): _checked_sections(sections, f"variants.{name}", origin)
        for name, sections in node.items()
    }


def _checked_name(name: Any, origin: Origin) -> str:
    try:
        return Settings(name=name).name
    except ValidationError as error:
        raise SpaceError(
            f"{origin('variants')}: names must be text of up to 64 letters, digits, '.', '_' and '-', "
            f"beginning with a letter or digit, got {shown(name)}"
        ) from error


def _checked_sections(sections: Any, where: str, origin: Origin) -> dict[str, Any]:
    if sections is None:
        return {}
    if not isinstance(sections, dict):
        raise SpaceError(f"{origin(where)}: must be a map of sections, got {shown(sections)}")
    for name in sections:
        if name in OF_THE_STUDY:
            raise SpaceError(
                f"{origin(f'{where}.{name}')}: belongs to the whole study, got it in one variant; set it "
                f"outside of variants"
            )
        if name not in SECTIONS:
            raise SpaceError(
                f"{origin(f'{where}.{name}')}: unknown section '{name}'; choose from "
                f"{', '.join(SECTIONS)}{closest(str(name), SECTIONS)}"
            )
    for key, value in _leaves(sections):
        if is_domain(value):
            raise SpaceError(
                f"{origin(f'{where}.{key}')}: a variant has fixed values, got {value}; search the key "
                f"outside of variants, or make a variant of each value"
            )
    return sections


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a tree with what is no map, is an empty one, or is a domain."""
    for name, value in tree.items():
        if isinstance(value, dict) and value and not is_domain(value):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def check_overlap(variants: Mapping[str, Mapping[str, Any]], domains: Mapping[str, Domain], origin: Origin) -> None:
    """Check that no variant sets what is searched, for the searched value would go over it.

    Raises:
        SpaceError: one does.
    """
    for name, sections in variants.items():
        for key, value in _leaves(sections):
            for searched in domains:
                inside = f"{searched}.".startswith(f"{key}.") and value != {}
                if inside or f"{key}.".startswith(f"{searched}."):
                    raise SpaceError(
                        f"{origin(f'variants.{name}.{key}')}: {searched} is searched, which goes over all "
                        f"variants, got {shown(value)} here; do not search it, or do not set it here"
                    )


def read_seeds(seeds: Any, origin: Origin) -> list[int]:
    """Return the seeds with which everything is repeated.

    Raises:
        SpaceError: they are no list of distinct whole numbers.
    """
    is_list = isinstance(seeds, list) and bool(seeds)
    if not is_list or not all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds) or len({*seeds}) < len(seeds):
        raise SpaceError(
            f"{origin('seeds')}: must be a list of one or more distinct whole numbers, 0 or more, got "
            f"{shown(seeds)}; write seeds: [0, 1, 2]"
        )
    return list(seeds)


def read_baseline(name: Any, variants: Mapping[str, Any], origin: Origin) -> str | None:
    """Return the variant that the others are compared with, the first where none is named; None without variants.

    Raises:
        SpaceError: there is no such variant.
    """
    if not variants:
        if name is not None:
            raise SpaceError(
                f"{origin('baseline')}: names one of the variants, got {shown(name)} and no variants; "
                f"write variants, or take it out"
            )
        return None
    if name is None:
        return next(iter(variants))
    choose({str(variant): variant for variant in variants}, str(name), origin("baseline"))
    return str(name)


def read_published(node: Any, domains: Mapping[str, Domain], origin: Origin) -> dict[str, Any] | None:
    """Return the numbers of a paper that are shown beside ours: `source`, and `accuracy`, rows in per cent.

    A row has `percent`, may have `std`, and says by searched keys, `variant` among them, what it is the accuracy of.

    Raises:
        SpaceError: it is of another form, or a row names what the space does not have.
    """
    if node is None:
        return None
    if "variant" not in domains:
        raise SpaceError(f"{origin('published')}: stands beside variants, got none; write variants, or take it out")
    if not isinstance(node, dict) or set(node) != {"source", "accuracy"}:
        got = list(node) if isinstance(node, dict) else node
        raise SpaceError(f"{origin('published')}: must be a map of source and accuracy, got {shown(got)}")
    if not isinstance(node["source"], str) or not node["source"].strip():
        raise SpaceError(
            f"{origin('published.source')}: must be text that says where the numbers stand, got {shown(node['source'])}"
        )
    if not isinstance(node["accuracy"], list):
        raise SpaceError(f"{origin('published.accuracy')}: must be a list of rows, got {shown(node['accuracy'])}")
    for index, row in enumerate(node["accuracy"]):
        _check_row(row, f"published.accuracy[{index}]", domains, origin)
    return node


def _check_row(row: Any, where: str, domains: Mapping[str, Domain], origin: Origin) -> None:
    if not isinstance(row, dict) or not {"variant", "percent"} <= row.keys():
        raise SpaceError(f"{origin(where)}: must be a map with variant and percent, got {shown(row)}")
    names = [*(key for key in domains if key != "seed"), "percent", "std"]
    for key in row:
        if key not in names:
            hint = closest(str(key), names)
            if key in known_keys(Settings):
                hint = "; where it is fixed, take the rows out by --set published=null"
            raise SpaceError(f"{origin(where)}: '{key}' is not searched here; choose from {', '.join(names)}{hint}")
    variants = {name: name for name in domains["variant"].values}
    choose(variants, str(row["variant"]), origin(f"{where}.variant"))
    for key in sorted({"percent", "std"} & row.keys()):
        if type(row[key]) not in (int, float) or not 0 <= row[key] <= 100:
            raise SpaceError(
                f"{origin(f'{where}.{key}')}: must be a number of per cent in [0, 100], got {shown(row[key])}"
            )
