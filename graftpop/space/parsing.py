"""Reading of spaces: YAML to a validated `Space`."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from graftpop.errors import SpaceError, closest
from graftpop.masking import masked
from graftpop.settings import CompareSettings, Settings
from graftpop.shipped_spaces import find_space, shipped_spaces
from graftpop.space.boundary import boundary_samples, combinations
from graftpop.space.comparison_keys import check_overlap, check_published, read_comparison
from graftpop.space.conditions import in_order
from graftpop.space.constraints import check_names, check_rules
from graftpop.space.domains import Domain
from graftpop.space.domains_in_tree import take_domains_
from graftpop.space.keys import STUDY_KEYS
from graftpop.space.method_constraints import check_methods
from graftpop.space.overrides import apply_override
from graftpop.space.renamed import check_renamed
from graftpop.space.search_constraints import check_effect, check_first, check_search
from graftpop.space.space import Space
from graftpop.space.validation_messages import Origin, Origins, VariantOrigins, describe
from graftpop.space.yaml_text import MAX_CHARS, read_sections
from graftpop.space.yaml_tree import copied, make_paths_absolute_, with_defaults
from graftpop.user_code import PYTHON, is_importable

__all__ = ["load_space", "parse_space", "parse_without_torch", "read_space"]

MAX_BOUNDARY_SAMPLES = 100_000  # about 5 s of validation


def load_space(path: str | Path, overrides: Iterable[str] = ()) -> Space:
    """Return the space of a YAML file, or of the package, after applying overrides.

    Args:
        path: path of the file, or the name of a space that ships with the package.
        overrides: `section.key=VALUE` with VALUE in YAML; later ones win. Values of variants win over overrides of the
            common sections.

    Raises:
        SpaceError: the file cannot be read, or the space is invalid.
    """
    space, check_rest = read_space(path, overrides)
    check_rest()
    return space


def read_space(path: str | Path, overrides: Iterable[str] = ()) -> tuple[Space, Callable[[], None]]:
    """Return the space of a YAML file, checked as far as possible without torch, and a function that checks the rest.

    Importing torch takes seconds; a user learns of most mistakes without that wait.

    Args:
        path: as for `load_space`.
        overrides: as for `load_space`.

    Raises:
        SpaceError: the file cannot be read, or the space is invalid. The returned function raises it too.
    """
    try:
        found = find_space(str(path))
        with found.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARS + 1)  # `read_yaml` refuses the extra character
    except (OSError, UnicodeDecodeError) as error:
        likely = closest(str(path).removeprefix("search_spaces/").removesuffix(".yaml"), shipped_spaces())
        raise SpaceError(
            f"{path}: cannot be read: {error}; give a YAML file, or a name that `graftpop spaces` lists{likely}"
        ) from error
    tree = read_sections(text, str(path))
    origins = {}
    for override in overrides:
        key = apply_override(tree, override)
        origins[key] = f"--set {override}"
    if found != Path(path):
        _check_user_code(tree, str(path))
    make_paths_absolute_(tree)
    return parse_without_torch(tree, str(path), origins)


def _check_user_code(tree: Any, where: str) -> None:
    """Check that the user code of a shipped space is found, which only a checkout has."""
    if isinstance(tree, dict | list):
        for node in tree.values() if isinstance(tree, dict) else tree:
            _check_user_code(node, where)
    elif isinstance(tree, str) and tree.startswith(PYTHON) and not is_importable(tree):
        raise SpaceError(
            f"{where}: needs the code {tree}, which an installed graftpop lacks; start the command in a checkout"
        )


def parse_space(tree: Mapping[str, Any], where: str = "space", origins: Mapping[str, str] | None = None) -> Space:
    """Return the space that plain data describes.

    Args:
        tree: sections, whose values may be domains, and optionally variants, seeds, baseline, compare and published.
        where: name of the source, at the start of messages.
        origins: options by the key or section that they set, at the start of messages instead of `where`.

    Raises:
        SpaceError: the space is invalid.
    """
    space, check_rest = parse_without_torch(tree, where, origins or {})
    check_rest()
    return space


def parse_without_torch(
    tree: Mapping[str, Any], where: str, origins: Mapping[str, str]
) -> tuple[Space, Callable[[], None]]:
    """Return the space that plain data describes, checked without torch, and a function that checks the rest.

    The arguments and errors are those of `parse_space`.
    """
    check_renamed(tree, where, origins)
    origin = Origins(where, origins)
    sections = _with_task({name: value for name, value in copied(dict(tree)).items() if name not in STUDY_KEYS})
    comparison = read_comparison(tree, origin)
    variants = {name: _with_task(changes or {}) for name, changes in copied(comparison.variants or {}).items()}
    is_comparison = bool(variants) or comparison.seeds is not None
    if comparison.seeds is not None:
        _put_seeds(sections, comparison.seeds, origin)
    if is_comparison and isinstance(sections.setdefault("tune", {}), dict):
        sections["tune"].setdefault("sampler", "grid")
    searched = take_domains_(sections, origin)
    domains = in_order(({"variant": Domain("grid", tuple(variants))} if variants else {}) | searched)
    common = with_defaults(sections)
    _check_task(common, variants, origin)
    storage_url = _mask_storage_(common)
    check_overlap(variants, domains, origin)
    check_published(comparison, domains, origin)
    space = Space(
        common,
        domains,
        variants,
        comparison.baseline or next(iter(variants), None),
        (comparison.compare or CompareSettings()).equal,
        copied(tree.get("published")),
        storage_url,
    )
    of_variant = {name: VariantOrigins(origin, name, variants[name], common) for name in variants}
    if sum(1 for _ in islice(boundary_samples(domains), MAX_BOUNDARY_SAMPLES + 1)) > MAX_BOUNDARY_SAMPLES:
        raise SpaceError(
            f"{where}: must have at most {MAX_BOUNDARY_SAMPLES} pairs of searched values, since each is validated, "
            f"got more; search ranges instead of long lists, or fewer variants"
        )
    unchecked: dict[str, tuple[Settings, Origin]] = {}  # by the values that need torch, so that each is checked once
    for sample in combinations({"variant": tuple(variants)} if variants else {}):
        of_sample = of_variant.get(sample.get("variant", ""), origin)
        first = space.active(space.complete(sample))
        _check(space, first, of_sample)  # first, since an invalid value may make other keys seem to have no effect
        check_effect(domains, partial(space.value_of, chosen=sample), of_sample)
    for sample in space.boundary_samples():
        of_sample = of_variant.get(sample.get("variant", ""), origin)
        settings = _check(space, sample, of_sample)
        unchecked.setdefault(repr(_needing_torch(settings)), (settings, of_sample))
    check_search(space.resolve(), domains, origin, is_comparison=is_comparison)
    check_first(space, origin)
    return space, partial(_check_rest, list(unchecked.values()))


def _with_task(sections: dict[str, Any]) -> dict[str, Any]:
    """Return sections in which a task that is given by its name alone is a section."""
    task = sections.get("task")
    return {**sections, "task": {"name": task}} if isinstance(task, str) else sections


def _check_task(common: dict[str, Any], variants: Mapping[str, Mapping[str, Any]], origin: Origin) -> None:
    """Fill in the metrics of a user-defined task, whose class is imported, and check that all trials have one task.

    Raises:
        SpaceError: the task cannot be imported, or a variant has another.
    """
    task = common["task"]
    for variant, changes in variants.items():
        given = changes.get("task")
        for key in ("name", "metrics"):
            if isinstance(given, dict) and isinstance(task, dict) and given.get(key, task.get(key)) != task.get(key):
                raise SpaceError(
                    f"{origin(f'variants.{variant}.task.{key}')}: must be the same in all variants, since their scores "
                    f"are compared, got {given[key]}; move it to task.{key}"
                )
    name, metrics = (task.get("name"), task.get("metrics")) if isinstance(task, dict) else (None, None)
    if isinstance(name, str) and name.startswith(PYTHON) and metrics is None:
        from graftpop.tasks.find import metrics_of

        task["metrics"] = {metric.name: metric.mode for metric in metrics_of(name)}


def _check(space: Space, sample: Mapping[str, Any], origin: Origin) -> Settings:
    """Check the settings of a sample against types, names and rules, and return them."""
    try:
        settings = space.resolve(sample)
    except ValidationError as error:
        of_value = origin.of_value if isinstance(origin, VariantOrigins) else origin
        raise SpaceError(describe(error, space.merged_tree(sample), sample, of_value)) from error
    check_names(settings, origin)
    check_rules(settings, space.domains, origin)
    check_methods(settings, origin)
    return settings


def _needing_torch(settings: Settings) -> tuple[object, ...]:
    """Return the values on which `check_torch_names` depends."""
    criteria = [section and section.criterion for section in (settings.graft, settings.repr, settings.pruning)]
    population = settings.population
    return *criteria, settings.training.optimizer, population.diversity, population.num_peers


def _check_rest(unchecked: Iterable[tuple[Settings, Origin]]) -> None:
    """Check what needs torch, which is imported here: the process that leads a trial does without it."""
    from graftpop.space.torch_constraints import check_torch_names

    for settings, origin in unchecked:
        check_torch_names(settings, origin)


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
        raise SpaceError(f"{origin('seeds')}: excludes seed, got {seeds} and seed {sections['seed']}; remove one")
    sections["seed"] = {"grid": seeds}
