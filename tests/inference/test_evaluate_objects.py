"""Objects are scored as they are found, plane by plane, pooled over the images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cli_runner import runner
from helpers import run_training, tiny

from napari_unetseg import AnnotatedImage, LabelKind, Model, PredictSettings, Stack, evaluate
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import TilePredicted
from napari_unetseg.core.labels import Structure
from napari_unetseg.core.object_metrics import ObjectCounts, count_objects
from napari_unetseg.data.object_ids import find_objects
from napari_unetseg.inference.predict import predict_events


def squares(seed: int, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Bright squares, some of which touch, and their numbers."""
    rng = np.random.default_rng(seed)
    image, ids = rng.normal(0.1, 0.03, (size, size)).astype(np.float32), np.zeros((size, size), int)
    for number, (y, x) in enumerate(np.ndindex(size // 24, size // 24), 1):
        at = slice(24 * y + 4, 24 * y + 18), slice(24 * x + 2, 24 * x + 16 + 10 * (x % 2 == 0))
        ids[at], image[at] = number, image[at] + 0.7
    return image, ids.astype(np.uint16)


@pytest.fixture(scope="module")
def model() -> Model:
    image, ids = squares(0)
    pair = AnnotatedImage(Stack(image, "YX"), ids, "instances")
    settings = tiny(width=8, depth=3, steps=30, validation_fraction=0.0)
    return run_training([pair], settings, structures=(Structure(1, "cell", objects=True),))[0]


def counted(model: Model, image: np.ndarray, ids: np.ndarray, *, partial: bool) -> ObjectCounts:
    """Objects of an image in one tile, compared."""
    how = PredictSettings(object_maps=True)
    events = predict_events(model, Stack(image, "YX"), how)
    (tile,) = (e for e in events if isinstance(e, TilePredicted))
    settings = model.object_settings
    found = find_objects(tile.mask, tile.maps, model.classes.objects, settings, (1.0, 1.0))
    return count_objects(ids, found, partial=partial)


@pytest.mark.parametrize("kind", [LabelKind.INSTANCES, LabelKind.FINISHED])
def test_objects_of_planes_tiles_and_images_are_pooled(model: Model, kind: LabelKind) -> None:
    seen = [squares(seed) for seed in (1, 2, 3)]
    if kind is LabelKind.FINISHED:
        seen = [(image, np.where(ids <= 6, ids, 0)) for image, ids in seen]
    partial = kind is LabelKind.FINISHED
    each = [counted(model, image, ids, partial=partial) for image, ids in seen]
    planes, last = seen[:2], seen[2]
    stack = Stack(np.stack([image for image, _ in planes]), "TYX")
    pairs = [
        AnnotatedImage(stack, np.stack([ids for _, ids in planes]), kind),
        AnnotatedImage(Stack(last[0], "YX"), last[1], kind),
    ]
    result = evaluate(model, pairs, PredictSettings(tile=32))
    assert [i.objects for i in result.images] == [each[0] + each[1], each[2]]
    assert result.objects == sum(each, ObjectCounts())
    assert result.objects.true == sum(len(np.unique(ids)) - 1 for _, ids in seen)
    assert result.objects.matched[0] > 0


def test_finished_objects_say_nothing_of_what_is_elsewhere(model: Model) -> None:
    image, ids = squares(1)
    some = np.where(ids <= 6, ids, 0)
    scores = [
        evaluate(model, [AnnotatedImage(Stack(image, "YX"), some, kind)]).objects
        for kind in (LabelKind.FINISHED, LabelKind.INSTANCES)
    ]
    assert scores[0].matched == scores[1].matched
    assert scores[0].predicted < scores[1].predicted


def test_objects_are_scored_only_where_they_are_known(model: Model) -> None:
    image, ids = squares(1)
    full = AnnotatedImage(Stack(image, "YX"), (ids > 0).astype(np.uint8), LabelKind.FULL)
    assert evaluate(model, [full]).objects is None
    finished = AnnotatedImage(Stack(image, "YX"), ids, LabelKind.FINISHED)
    with pytest.raises(UserError, match="together"):
        evaluate(model, [finished, full])


def test_the_command_shows_and_writes_the_scores_of_objects(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runner(capsys)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for seed in (1, 2):
        image, ids = squares(seed)
        tifffile.imwrite(tmp_path / "images" / f"{seed}.tif", image)
        tifffile.imwrite(tmp_path / "masks" / f"{seed}.tif", ids)
    saved, file = model.save(tmp_path / "model"), tmp_path / "scores.json"
    files = (saved, tmp_path / "images", tmp_path / "masks")
    result = run("evaluate", *files, "--labels", "instances", "--json", file)
    assert "AP 0.5:0.95" in result.out
    facts = json.loads(file.read_text(encoding="utf-8"))
    each = [image["objects"] for image in facts["images"]]
    for name in ("splits", "merges", "true", "predicted"):
        assert facts["objects"][name] == sum(one[name] for one in each)
    wanted = sum((counted(model, *squares(s), partial=False) for s in (1, 2)), ObjectCounts())
    assert facts["objects"]["ap50"] == pytest.approx(wanted.precision_at(0.5))
    assert facts["objects"]["ap50_95"] == pytest.approx(wanted.mean_precision)
    assert facts["objects"]["pq"] == pytest.approx(wanted.panoptic_quality)
    assert "objects" not in json.loads(
        run("evaluate", *files[:2], files[2], "--threshold", 0, "--json", "-").out
    )


def test_info_says_how_objects_are_found(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = runner(capsys)("info", model.save(tmp_path / "model")).out
    (line,) = (row for row in said.splitlines() if row.startswith("objects "))
    assert "1 cell" in line
    assert model.object_settings is not None
    assert f"prominence {model.object_settings.prominence:g}" in line
