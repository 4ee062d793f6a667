"""The house's one law: a module imports only from rooms below its own."""

import ast
from pathlib import Path

import pytest

import spectra

PACKAGE = Path(spectra.__file__).parent
# Each room with its floor, as in the design. The package root serves names and may be imported by all.
FLOORS = {
    "errors": 0, "text": 0, "layout": 1, "updates": 1, "table": 1, "loaders": 2, "engine": 2, "metrics": 3, "testing": 3, "basis_cache": 3,
    "findings": 4, "analysis": 5, "plots": 6, "reports": 7, "results": 8, "api": 9, "cli": 10, "__main__": 11,
}  # fmt: skip
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__")


def room(parts: tuple[str, ...]) -> str:
    return Path(parts[0]).stem


def imports(path: Path, *, top_only: bool = False) -> list[str]:
    """Every spectra module that a file imports, at any depth of the file."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in found if name.split(".")[0] == "spectra"]


def violations(path: Path, package: Path = PACKAGE) -> list[str]:
    own = room(path.relative_to(package).parts)
    bad = []
    for name in imports(path):
        target = name.split(".")[1] if "." in name else ""
        if target not in FLOORS:
            continue  # a name of the package root, such as __version__
        same_floor = FLOORS[target] == FLOORS[own] and target != own
        if FLOORS[target] > FLOORS[own] or (same_floor and {own, target} != {"layout", "updates"}):
            bad.append(f"{own} imports {name}")
    return bad


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    assert violations(path) == []


def test_every_module_stands_in_a_known_room():
    assert {room(path.relative_to(PACKAGE).parts) for path in MODULES} <= set(FLOORS)


def test_a_planted_upward_import_is_seen(tmp_path):
    copy = tmp_path / "engine" / "dense.py"
    copy.parent.mkdir()
    copy.write_text((PACKAGE / "engine" / "dense.py").read_text() + "\nfrom spectra.reports import html\n")
    assert violations(copy, tmp_path) == ["engine imports spectra.reports.html"]


def test_commands_import_torch_in_their_bodies_only():
    for path in (PACKAGE / "cli").glob("*.py"):
        heavy = [
            name for name in imports(path, top_only=True) if name.split(".")[1:2] not in (["cli"], ["errors"], ["text"])
        ]
        assert [name for name in heavy if name != "spectra.__version__"] == [], path.name
