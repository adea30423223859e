"""The house rules that a machine can check: import circles, names, sizes."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import grimp

PACKAGE = Path(__file__).resolve().parents[1] / "napari_unetseg"
MODULES = sorted(PACKAGE.rglob("*.py"))
MODULE_LINES, CLASS_LINES, CLASS_METHODS = 450, 400, 40


def name_of(file: Path) -> str:
    """The file's path below the package."""
    return file.relative_to(PACKAGE).as_posix()


def classes_of(file: Path) -> Iterator[ast.ClassDef]:
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return (node for node in nodes if isinstance(node, ast.ClassDef))


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """The groups of modules that import each other, by way of others too."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        todo = list(imports.get(start, ()))
        while todo:
            if (module := todo.pop()) not in found:
                found.add(module)
                todo.extend(imports.get(module, ()))
        return found

    reach = {module: reached(module) for module in imports}
    groups = [
        frozenset(other for other in reach[module] if module in reach.get(other, ()))
        for module in imports
        if module in reach[module]
    ]
    return [set(group) for group in dict.fromkeys(groups)]


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]


def test_no_modules_import_each_other_not_even_for_types() -> None:
    graph = grimp.build_graph("napari_unetseg", exclude_type_checking_imports=False, cache_dir=None)
    imports = {
        module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules
    }
    assert len(imports) > len(MODULES) / 2
    assert circles(imports) == []


def test_a_file_name_occurs_once() -> None:
    places = defaultdict(list)
    for file in MODULES:
        if file.name != "__init__.py":
            places[file.name].append(name_of(file))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_a_public_class_has_a_name_of_its_own() -> None:
    places = defaultdict(list)
    for file in MODULES:
        for node in classes_of(file):
            if not node.name.startswith("_"):
                places[node.name].append(name_of(file))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def too_large(file: Path) -> Iterator[str]:
    """What of a module is larger than the house rules allow."""
    lines = len(file.read_text(encoding="utf-8").splitlines())
    if lines > MODULE_LINES:
        yield f"{name_of(file)}: {lines} lines"
    for node in classes_of(file):
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        methods = sum(isinstance(part, ast.FunctionDef) for part in node.body)
        if lines > CLASS_LINES or methods > CLASS_METHODS:
            yield f"{name_of(file)}: {node.name} of {lines} lines, {methods} methods"


def test_modules_and_classes_stay_small() -> None:
    assert [found for file in MODULES for found in too_large(file)] == []
