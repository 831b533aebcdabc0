"""Imports go down only: read from the source, those inside functions included."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import graftpop

ROOT = Path(__file__).parent.parent
FLOORS = {
    "errors": 0,
    "settings": 1, "ops": 1,
    "learner": 2,
    "methods": 3,
    "checkpoint_writer": 4, "checkpoints": 4, "commands": 4, "comparison": 4, "exporting": 4, "inspection": 4,
    "optuna_storage": 4, "optuna_terms": 4, "peer": 4, "peer_state": 4, "population": 4, "preflight": 4, "progress": 4,
    "records": 4, "report_page": 4, "run_facts": 4, "sampling": 4, "sideline": 4, "space": 4, "sparing": 4,
    "storage": 4, "trials": 4,
    "cluster": 5,
    "__main__": 6, "export": 6, "init": 6, "inspect": 6, "library": 6, "report": 6, "tune": 6,
}
"""The floor of every module or folder of graftpop; those of one floor may import each other from floor 4 on."""

FLOORS_WITH_STAIRS = (4, 6)
OPS_MAY_IMPORT = {"torch", "math", "random", "collections", "typing", "dataclasses"}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted((ROOT / "graftpop").rglob("*.py"))}


def imports(module: str, tree: ast.AST) -> Iterator[str]:
    """Yield the full names of the modules that are imported anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}, line {node.lineno}: relative import; write the whole name"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else str(node.module) for name in names)


def part(module: str) -> str:
    """Return the module or folder of graftpop that a module is in."""
    return module.split(".")[1]


IMPORTS = {module: sorted(set(imports(module, ast.parse(file.read_text(encoding="utf-8")))))
           for module, file in MODULES.items()}
INSIDE = {module: [name for name in names if name.startswith("graftpop.")] for module, names in IMPORTS.items()}
PLACED = [module for module in MODULES if module != "graftpop"]


@pytest.mark.parametrize("module", PLACED)
def test_every_module_stands_on_a_floor(module: str) -> None:
    assert part(module) in FLOORS, f"{module}: stands on no floor; place '{part(module)}' in FLOORS of {__name__}"


@pytest.mark.parametrize("module", PLACED)
def test_a_module_imports_from_lower_floors_and_its_own_folder_only(module: str) -> None:
    own = FLOORS[part(module)]
    for name in INSIDE[module]:
        is_beside = part(name) == part(module) or (FLOORS[part(name)] == own and own in FLOORS_WITH_STAIRS)
        assert FLOORS[part(name)] < own or is_beside, (
            f"{module} (floor {own}) imports {name} (floor {FLOORS[part(name)]}); imports go down only")


def test_no_module_imports_itself_by_way_of_others() -> None:
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"modules import each other in a circle: {' -> '.join((*path, module))}"
        if module not in finished:
            for name in INSIDE[module]:
                visit(name, (*path, module))
            finished.add(module)

    for module in PLACED:
        visit(module, ())
    assert finished == set(PLACED)


def test_the_package_itself_imports_nothing_before_it_is_asked_for() -> None:
    script = ("import sys, graftpop\n"
              "print([name for name in sys.modules if name.startswith(('graftpop.', 'torch', 'ray'))])")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60,
                          cwd=ROOT).stdout == "[]\n"


def test_everything_that_the_package_offers_is_there() -> None:
    assert all(getattr(graftpop, name) is not None for name in graftpop.__all__)
    with pytest.raises(AttributeError, match="module 'graftpop' has no attribute 'grfat'"):
        graftpop.grfat  # noqa: B018


@pytest.mark.parametrize("module", MODULES)
def test_ray_is_imported_in_cluster_only(module: str) -> None:
    imports_ray = any(name.split(".")[0] == "ray" for name in IMPORTS[module])
    assert not imports_ray or module.startswith("graftpop.cluster.")


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("graftpop.ops")])
def test_ops_import_torch_and_mathematics_only(module: str) -> None:
    foreign = [name for name in IMPORTS[module]
               if name.split(".")[0] not in OPS_MAY_IMPORT and not name.startswith("graftpop.ops")]
    assert not foreign, f"{module} imports {', '.join(foreign)}"


@pytest.mark.parametrize(("source", "expected"), [
    ("import ray.tune", ["ray.tune"]),
    ("from graftpop.ops.graft import blend", ["graftpop.ops.graft"]),
    ("from graftpop.ops import graft", ["graftpop.ops.graft"]),
    ("from graftpop import __version__", ["graftpop"]),
    ("def late():\n    from graftpop import settings", ["graftpop.settings"]),
])
def test_imports_are_read_wherever_they_stand(source: str, expected: list[str]) -> None:
    assert list(imports("example", ast.parse(source))) == expected
