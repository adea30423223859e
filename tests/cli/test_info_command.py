"""unetseg info: which structures of a model consist of objects, and how these are found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli_runner import runner
from helpers import random_model

from napari_unetseg.core.labels import Classes

if TYPE_CHECKING:
    import pytest


def test_objects_and_how_they_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, areas = runner(capsys), random_model()
    structures = tuple(replace(s, name="cell", objects=True) for s in areas.classes.structures)
    at_necks = replace(areas, classes=Classes(structures, areas.classes.background))
    assert "objects " not in run("info", areas.save(tmp_path / "areas")).out
    said = run("info", at_necks.save(tmp_path / "necks")).out
    (line,) = (row for row in said.splitlines() if row.startswith("objects "))
    assert "1 cell" in line
    assert "necks" in line
