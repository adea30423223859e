"""Who may import what, seen from a fresh interpreter."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "napari_unetseg"
QT = {"PyQt5", "PyQt6", "PySide2", "PySide6", "qtpy", "superqt", "pyqtgraph", "magicgui"}
NAPARI_AND_QT = QT | {"napari", "vispy"}
TORCH = {"torch", "torchvision"}
ROOMS = (
    *("core", "annotations", "data", "runtime", "models", "io", "training", "inference", "jobs"),
    *("report", "cli"),
)
WITHOUT_TORCH = ("core", "annotations", "data", "io")

PROGRAM = """
import importlib, json, sys
for name in {names!r}:
    importlib.import_module(name)
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def modules_of(*folders: str) -> list[str]:
    """Return the dotted names of all modules in some rooms of the package."""
    files = sorted(file for folder in folders for file in (PACKAGE / folder).rglob("*.py"))
    assert files
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return [name.removesuffix(".__init__") for name in names]


def loaded_after(*names: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after importing `names`."""
    command = [sys.executable, "-c", PROGRAM.format(names=names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_the_package_alone_loads_neither_torch_nor_napari_nor_qt() -> None:
    assert not loaded_after("napari_unetseg") & (TORCH | NAPARI_AND_QT)


def test_only_the_window_loads_napari_and_qt() -> None:
    names = [*modules_of(*ROOMS), "napari_unetseg.sample"]
    assert not loaded_after(*names) & NAPARI_AND_QT


def test_the_help_of_the_command_line_loads_neither_torch_nor_readers() -> None:
    loaded = loaded_after("napari_unetseg.cli")
    assert not loaded & (TORCH | NAPARI_AND_QT | {"tifffile", "zarr", "PIL", "scipy"})


def test_images_annotations_and_settings_load_no_torch() -> None:
    assert not loaded_after(*modules_of(*WITHOUT_TORCH)) & (TORCH | NAPARI_AND_QT)


def test_session_and_controller_load_no_qt() -> None:
    names = ["napari_unetseg.gui.state.session", "napari_unetseg.gui.plugin"]
    bindings = {"PyQt5", "PyQt6", "PySide2", "PySide6"}
    assert not loaded_after(*names) & bindings


def test_opening_the_dock_loads_no_torch() -> None:
    assert not loaded_after("napari_unetseg.gui.dock_widget") & TORCH


def test_the_check_itself_sees_what_is_imported() -> None:
    assert {"json", "qtpy"} <= loaded_after("qtpy")


@pytest.mark.parametrize("file", ["models/unet.py"])
def test_the_network_can_travel_alone(file: str) -> None:
    """It goes into exported models, so it may import torch and the standard library alone."""
    imported = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            imported.add(node.module or "")
    outside = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    assert outside == {"torch"}
