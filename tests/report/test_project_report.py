"""unetseg report: a page about a project, from the command line."""

from __future__ import annotations

import csv
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers import blobs, strokes, tiny

from napari_unetseg.annotations.annotation_store import (
    AnnotationChange,
    ImageAnnotations,
    LabelSource,
)
from napari_unetseg.annotations.sparse_array import plane_region
from napari_unetseg.cli import main
from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind, Structure
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.io.open_image import open_stack
from napari_unetseg.io.project.database import FILE
from napari_unetseg.io.project.place_rows import CheckedPlace, ModelOverlaps, PlaceState
from napari_unetseg.io.project.project import Project
from napari_unetseg.report.project_page import agreement
from napari_unetseg.training.train import train

SHAPE = (3, 64, 64)
KEY = "image-1"
Overlap = tuple[int, int, int]
HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with strokes, an accepted plane and a model."""
    folder = tmp_path_factory.mktemp("made")
    image, truth = blobs(SHAPE, 8, 0)
    tifffile.imwrite(folder / "cells.tif", image.astype(np.float32), photometric="minisblack")
    stack = open_stack(folder / "cells.tif")
    labels = strokes(truth, 8)
    model = train([AnnotatedImage(stack, labels, "strokes")], tiny(epochs=2))
    said = ImageAnnotations(SHAPE)
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

    def note(origin: LabelSource, plane: int, array: np.ndarray) -> None:
        region = plane_region((plane,), SHAPE)
        change = said.record(origin, region, array[None])
        assert isinstance(change, AnnotationChange)
        project.record(KEY, change)

    note(LabelSource.STROKES, 0, labels[0])
    note(LabelSource.ACCEPTED, 1, np.where(truth[1], 1, BACKGROUND_LABEL).astype(np.uint8))
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
    assert pictures == {"curve.png", "plane-0.png", "plane-1.png"}
    for name in pictures:
        assert (tmp_path / "r" / name).read_bytes().startswith(b"\x89PNG")


def test_checked_quality_is_a_table_of_every_model_on_the_page_as_csv_and_on_the_terminal(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made, tmp_path / "project")
    project = Project.open(tmp_path / "project")
    in_use = project.values["in_use"]

    def place(number: int, weight: float, mine: Overlap, earlier: Overlap) -> CheckedPlace:
        models = {"gone": ("Model 0", earlier), in_use: ("Model 1", mine)}
        return CheckedPlace(
            number,
            KEY,
            (slice(2, 3), slice(0, 16), slice(16 * number, 16 * number + 16)),
            weight,
            0,
            np.full((1, 16, 16), BACKGROUND_LABEL, np.uint8),
            PlaceState.CHECKED,
            models={
                model: ModelOverlaps(name, {1: counts}) for model, (name, counts) in models.items()
            },
        )

    first = place(1, 1.0, (90, 100, 100), (50, 100, 100))
    project.put_places([first, place(2, 3.0, (60, 100, 100), (50, 100, 100))])
    project.close()
    assert main(["report", str(tmp_path / "project"), "-o", str(tmp_path / "r")]) == 0
    with (tmp_path / "r" / "quality.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["Model 0", "Model 1"]
    assert float(rows[0]["dice"]) == 0.5
    assert float(rows[1]["dice"]) == pytest.approx((90 + 3 * 60) / 400)
    assert float(rows[1]["dice_low"]) < float(rows[1]["dice"]) < float(rows[1]["dice_high"])
    assert "0.675" in page_of(tmp_path / "r")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "Model 1" in line and "Dice 0.6" in line]


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
    (tmp_path / FILE).write_bytes(b"another file")
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "r")]) == 1
    assert "is damaged" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


# -- Dice of a mask on what is annotated -----------------------------------------------------------

ONE, TWO = (Structure(1),), (Structure(1), Structure(2))
PLANE = (slice(0, 1), slice(0, 10), slice(0, 10))


def annotated(
    *words: tuple[LabelSource, slice, int], kind: LabelKind = LabelKind.STROKES
) -> ImageAnnotations:
    """Annotations of an image of 10 × 10, row by row."""
    truth = ImageAnnotations((1, 10, 10), kind=kind)
    for origin, rows, number in words:
        values = truth.read(origin, PLANE)
        values[:, rows] = number
        truth.record(origin, PLANE, values)
    return truth


def mask_of(rows: int) -> np.ndarray:
    """A mask that says structure 1 in the first rows and background below."""
    return (
        np.repeat([1, BACKGROUND_LABEL], [rows * 10, 100 - rows * 10])
        .astype(np.uint8)
        .reshape(1, 10, 10)
    )


def test_an_accepted_plane_counts_as_a_whole() -> None:
    truth = annotated(
        (LabelSource.ACCEPTED, slice(0, 10), BACKGROUND_LABEL),
        (LabelSource.ACCEPTED, slice(2, 5), 1),
    )
    scores = agreement(truth, PLANE, mask_of(4), ONE)
    assert scores is not None
    # predicted rows 0-3, true rows 2-4: two in common of four and three
    assert (scores.dice, scores.voxels) == ((pytest.approx(2 * 2 / (4 + 3)),), 100)


def test_only_what_is_annotated_counts_where_nothing_was_accepted() -> None:
    truth = annotated(
        (LabelSource.STROKES, slice(1, 2), 1),
        (LabelSource.CORRECTIONS, slice(3, 4), BACKGROUND_LABEL),
        (LabelSource.CORRECTIONS, slice(6, 7), 1),
    )
    scores = agreement(truth, PLANE, mask_of(4), ONE)
    assert scores is not None
    # row 1 right, row 3 too much, row 6 missed
    assert (scores.dice, scores.voxels) == ((pytest.approx(2 / (2 + 1 + 1)),), 30)
    assert agreement(annotated(), PLANE, mask_of(4), ONE) is None
    background = annotated((LabelSource.ACCEPTED, slice(6, 8), BACKGROUND_LABEL))
    assert agreement(background, PLANE, mask_of(4), ONE) is None


def test_the_newest_annotation_counts_and_deleted_structures_and_layers_do_not() -> None:
    truth = annotated(
        (LabelSource.CORRECTIONS, slice(0, 2), BACKGROUND_LABEL),
        (LabelSource.STROKES, slice(0, 10), 1),
    )
    mask = mask_of(4)
    mask[:, 8:] = 2
    one, two = agreement(truth, PLANE, mask, ONE), agreement(truth, PLANE, mask, TWO)
    assert one is not None
    assert two is not None
    assert (one.mean_dice, one.voxels) == (pytest.approx(2 * 4 / (4 + 8)), 80)
    assert (two.mean_dice, two.voxels) == (pytest.approx((2 * 4 / (4 + 10) + 0) / 2), 100)
    truth.disable_strokes()
    alone = agreement(truth, PLANE, mask, ONE)
    assert alone is not None
    assert (alone.mean_dice, alone.voxels) == (0.0, 20)


def test_full_masks_and_binary_ones_are_understood() -> None:
    truth = annotated((LabelSource.STROKES, slice(0, 5), 255), kind=LabelKind.FULL)
    scores = agreement(truth, PLANE, mask_of(4), ONE)
    assert scores is not None
    assert (scores.dice, scores.voxels) == ((pytest.approx(2 * 4 / (4 + 5)),), 100)
