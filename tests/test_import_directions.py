"""Imports go down only. One parse of the package answers every question here."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from layers import LAYERS

import graftpop

ROOT = Path(__file__).parent.parent
COMMANDS = LAYERS[0]
LAYER_OF = {name: len(LAYERS) - index for index, layer in enumerate(LAYERS) for name in layer}
OPS_MAY_IMPORT = {"torch", "numpy", "scipy", "math", "random", "collections", "typing", "dataclasses"}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted((ROOT / "graftpop").rglob("*.py"))}
MODULES = [module for module in FILES if module != "graftpop"]


@cache
def trees() -> dict[str, ast.Module]:
    return {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in FILES.items()}


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the full names of all imported modules, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ["." * node.level] * bool(node.level)
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in FILES else str(node.module) for name in names)


@cache
def all_imports() -> dict[str, list[str]]:
    return {module: sorted(set(imports(tree))) for module, tree in trees().items()}


def imports_inside(module: str) -> list[str]:
    return [name for name in all_imports()[module] if name.startswith("graftpop.")]


def part(module: str) -> str:
    """Return the module or folder directly below graftpop."""
    return module.split(".")[1]


def upward_imports() -> Iterator[str]:
    for module in MODULES:
        for name in imports_inside(module):
            own, other = part(module), part(name)
            both_commands = own == "__main__" and other in COMMANDS
            if not (own == other or both_commands or LAYER_OF[other] < LAYER_OF[own]):
                yield f"{module} imports {name}"


def test_every_module_has_a_layer() -> None:
    assert {part(module) for module in MODULES} == set(LAYER_OF)


def test_imports_go_down_only() -> None:
    assert list(upward_imports()) == []


def test_no_import_is_relative() -> None:
    assert [module for module, names in all_imports().items() if any(name.startswith(".") for name in names)] == []


def test_no_modules_import_each_other_in_a_cycle() -> None:
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"cycle: {' -> '.join((*path, module))}"
        if module not in finished:
            for name in imports_inside(module):
                visit(name, (*path, module))
            finished.add(module)

    for module in MODULES:
        visit(module, ())
    assert finished == set(MODULES)


def test_every_module_has_a_one_line_docstring() -> None:
    first_lines = {module: (ast.get_docstring(tree) or "").partition("\n")[0] for module, tree in trees().items()}
    assert [module for module, line in first_lines.items() if not line] == []


def test_only_cluster_imports_ray() -> None:
    assert [
        module
        for module, names in all_imports().items()
        if not module.startswith("graftpop.cluster.") and any(name.split(".")[0] == "ray" for name in names)
    ] == []


def test_ops_import_torch_and_mathematics_only() -> None:
    assert [
        f"{module} imports {name}"
        for module, names in all_imports().items()
        if module.startswith("graftpop.ops")
        for name in names
        if name.split(".")[0] not in OPS_MAY_IMPORT and not name.startswith("graftpop.ops")
    ] == []


def test_importing_the_package_imports_neither_torch_nor_ray() -> None:
    script = (
        "import sys, graftpop\nprint([name for name in sys.modules if name.startswith(('graftpop.', 'torch', 'ray'))])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
        ).stdout
        == "[]\n"
    )


def test_public_names_can_be_imported_and_others_cannot() -> None:
    assert all(getattr(graftpop, name) is not None for name in graftpop.__all__)
    with pytest.raises(AttributeError, match="grfat"):
        graftpop.grfat  # noqa: B018


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import ray.tune", ["ray.tune"]),
        ("from graftpop.ops.graft import blend", ["graftpop.ops.graft"]),
        ("from graftpop.ops import graft", ["graftpop.ops.graft"]),
        ("from graftpop import __version__", ["graftpop"]),
        ("def late():\n    from graftpop import settings", ["graftpop.settings"]),
        ("from . import settings", [".", "None"]),
    ],
)
def test_imports_are_found_at_every_nesting_level(source: str, expected: list[str]) -> None:
    assert list(imports(ast.parse(source))) == expected
