"""unetseg report: a page about a project, from the command line."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers import blobs, strokes, tiny

from napari_unetseg.annotations.annotation_store import Change, Origin, Truth
from napari_unetseg.annotations.quality import plane_region
from napari_unetseg.cli import main
from napari_unetseg.core.labels import BRUSH
from napari_unetseg.data.dataset import Pair
from napari_unetseg.io.open_image import open_stack
from napari_unetseg.io.project import Project
from napari_unetseg.training.train import train

SHAPE = (3, 64, 64)
KEY = "image-1"
HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with strokes, a correction, an accepted plane, first masks and a model."""
    folder = tmp_path_factory.mktemp("made")
    image, truth = blobs(SHAPE, 8, 0)
    tifffile.imwrite(folder / "cells.tif", image.astype(np.float32), photometric="minisblack")
    stack = open_stack(folder / "cells.tif")
    labels = strokes(truth, 8)
    model = train([Pair(stack, labels, "strokes")], tiny(epochs=2))
    said = Truth(SHAPE)
    values = {
        "images": {
            KEY: {
                "shape": list(SHAPE),
                "dtype": "uint8",
                "kind": "strokes",
                "name": f"cells {HOSTILE}",
                "path": str(folder / "cells.tif"),
                "relative": "../cells.tif",
                "fingerprint": stack.fingerprint(),
            }
        },
        "structures": [{"number": 1, "name": HOSTILE, "color": "#e69f00", "file_value": None}],
        "models": [{"name": "Model 1", "id": model.id}],
        "in_use": model.id,
    }
    project = Project.create(folder / "project")
    project.put_values(values)
    project.add(KEY, said)

    def note(origin: Origin, plane: int, array: np.ndarray) -> None:
        region = plane_region((plane,), SHAPE)
        change = said.note(origin, region, array[None])
        assert isinstance(change, Change)
        project.record(KEY, change)

    note(Origin.FIRST, 1, np.where(truth[1], 1, BRUSH).astype(np.uint8))
    note(Origin.STROKES, 0, labels[0])
    note(Origin.ACCEPTED, 1, np.where(truth[1], 1, BRUSH).astype(np.uint8))
    project.add_model(model.id, model.save)
    project.close()
    return folder / "project"


def page_of(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


def test_the_page_says_what_was_done_and_how_good_it_is(made: Path, tmp_path: Path) -> None:
    assert main(["report", str(made), "-o", str(tmp_path / "r")]) == 0
    page = unescape(re.sub("<[^>]+>", " ", page_of(tmp_path / "r")))
    assert "2 planes of 1 image were annotated" in page
    assert "2D U-Net" in page
    assert "learning_rate" in page
    assert "Best and worst planes" in page
    assert str(int((strokes(blobs(SHAPE, 8, 0)[1], 8)[0] != 0).sum())) in page.replace(",", "")
    assert "4,096" in page, "voxels of the accepted plane"
    pictures = set(re.findall(r'<img src="([^"]+)"', page_of(tmp_path / "r")))
    assert pictures == {"curve.png", "quality.png", "plane-0.png", "plane-1.png"}
    for name in pictures:
        assert (tmp_path / "r" / name).read_bytes().startswith(b"\x89PNG")


def test_names_from_the_project_are_text_and_nothing_is_fetched(made: Path, tmp_path: Path) -> None:
    assert main(["report", str(made), "-o", str(tmp_path / "r")]) == 0
    page = page_of(tmp_path / "r")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page


def test_an_earlier_report_is_replaced_and_nothing_else_is(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    assert main(["report", str(made), "-o", str(out)]) == 0
    (out / "plane-9.png").write_bytes(b"of an earlier one")
    assert main(["report", str(made), "-o", str(out)]) == 0
    assert not (out / "plane-9.png").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    assert main(["report", str(made), "-o", str(tmp_path / "mine")]) == 1
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "r"]


def test_an_earlier_report_stays_when_the_new_one_cannot_take_its_place(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r"
    assert main(["report", str(made), "-o", str(out)]) == 0
    before = page_of(out)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "report":
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert main(["report", str(made), "-o", str(out)]) == 1
    assert "cannot be replaced" in capsys.readouterr().err
    assert page_of(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["r"]


def test_an_image_that_is_not_there_is_said(made: Path, tmp_path: Path) -> None:
    image = made.parent / "cells.tif"
    image.rename(tmp_path / "elsewhere.tif")
    try:
        assert main(["report", str(made), "-o", str(tmp_path / "r")]) == 0
    finally:
        (tmp_path / "elsewhere.tif").rename(image)
    page = page_of(tmp_path / "r")
    assert "not found" in page
    assert "plane-0.png" not in page


def test_what_is_no_project_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "r")]) == 1
    assert "is no project" in capsys.readouterr().err
    (tmp_path / "project.json").write_text(json.dumps({"format": 1}))
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "r")]) == 1
    assert "is damaged" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
