"""Whole objects teach maps that tell touching ones apart, from strokes and full masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from helpers import run_training, tiny

from napari_unetseg import AnnotatedImage, Stack, load_model
from napari_unetseg.core.errors import TrainingError
from napari_unetseg.core.events import TilePredicted
from napari_unetseg.core.labels import Structure
from napari_unetseg.core.object_metrics import count_objects
from napari_unetseg.core.settings import ObjectSettings, PredictSettings
from napari_unetseg.data.object_ids import find_objects
from napari_unetseg.inference.predict import predict_events
from napari_unetseg.training.losses import LossInputs, object_map_loss, rim_loss

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model

NUCLEI = (Structure(1, "nuclei", objects=True),)


def touching(shape: tuple[int, int] = (160, 160), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of bright squares that touch along a dim line, and their numbers."""
    rng = np.random.default_rng(seed)
    image, ids = rng.normal(0.1, 0.03, shape).astype(np.float32), np.zeros(shape, np.int32)
    number = 0
    for y in range(8, shape[0] - 24, 32):
        for x in range(8, shape[1] - 30, 40):
            for part in range(2):
                number += 1
                at = slice(y, y + 16), slice(x + 14 * part, x + 14 * (part + 1))
                ids[at] = number
                image[at] += 0.7
            image[y : y + 16, x + 13 : x + 15] -= 0.25
    return image, ids


def found_by(model: Model, image: np.ndarray, settings: ObjectSettings | None) -> np.ndarray:
    """Objects of an image."""
    how = PredictSettings(object_maps=True)
    (tile,) = (
        e for e in predict_events(model, Stack(image, "YX"), how) if isinstance(e, TilePredicted)
    )
    return find_objects(tile.mask, tile.maps, model.classes.objects, settings, (1.0, 1.0))


def precision(model: Model, settings: ObjectSettings | None) -> float:
    image, ids = touching(seed=5)
    return count_objects(ids, found_by(model, image, settings)).precision_at(0.5)


@pytest.mark.parametrize("kind", ["instances", "strokes", "finished"])
def test_whole_objects_teach_where_touching_ones_end(kind: str, tmp_path: Path) -> None:
    image, ids = touching()
    some = np.where(ids <= 12, ids, 0)
    strokes = np.zeros(ids.shape, np.uint8)
    strokes[4::32] = 255
    given = {
        "instances": AnnotatedImage(Stack(image, "YX"), ids, "instances"),
        "strokes": AnnotatedImage(Stack(image, "YX"), strokes, "strokes", objects=some),
        "finished": AnnotatedImage(Stack(image, "YX"), some, "finished", corrections=strokes),
    }
    settings = tiny(width=16, depth=4, steps=40, validation_fraction=0.0)
    model, _ = run_training([given[kind]], settings, structures=NUCLEI)
    assert model.classes.objects == (1,)
    assert model.object_settings is not None
    assert precision(model, model.object_settings) > 0.8
    assert "Objects" in [choice.name for choice in model.history[-1].choices]
    again = load_model(model.save(tmp_path / "model"))
    assert again.object_settings == model.object_settings
    assert again.id == model.id


def test_finished_objects_alone_are_refused() -> None:
    image, ids = touching()
    with pytest.raises(TrainingError, match="0 means not labelled"):
        run_training([AnnotatedImage(Stack(image, "YX"), ids, "finished")], tiny(steps=1))


def test_without_a_whole_object_they_are_split_at_necks() -> None:
    image, ids = touching()
    strokes = np.zeros(ids.shape, np.uint8)
    strokes[4::32], strokes[16::32] = 255, (ids > 0)[16::32]
    pair = AnnotatedImage(Stack(image, "YX"), strokes, "strokes")
    model, _ = run_training([pair], tiny(steps=2), structures=NUCLEI)
    assert model.net.object_maps
    assert model.object_settings is None
    assert found_by(model, image, None).max() > 0


def test_areas_have_no_maps() -> None:
    image, ids = touching()
    model, _ = run_training([AnnotatedImage(Stack(image, "YX"), ids, "instances")], tiny(steps=1))
    assert model.classes.objects == ()
    assert not model.net.object_maps


def test_a_model_of_areas_goes_on_with_objects_and_back() -> None:
    image, ids = touching()
    pair = AnnotatedImage(Stack(image, "YX"), ids, "instances")
    areas, _ = run_training([pair], tiny(steps=1))
    model, _ = run_training([pair], tiny(steps=1), structures=NUCLEI, init=areas)
    assert model.net.object_maps
    assert "maps_head.weight" in model.weights
    more, _ = run_training([pair], tiny(steps=1), init=model)
    assert more.net.object_maps  # as the model says


def test_an_object_has_the_structure_of_its_labels() -> None:
    image, ids = touching()
    labels = np.zeros(ids.shape, np.uint8)
    labels[4::32] = 255
    labels[(ids == 1) & (np.indices(ids.shape)[0] % 9 == 0)] = 2
    both = (Structure(1, "a", objects=True), Structure(2, "b", objects=True))
    some = np.where(ids <= 2, ids, 0)
    pair = AnnotatedImage(Stack(image, "YX"), labels, "strokes", objects=some)
    model, _ = run_training([pair], tiny(steps=1, validation_fraction=0.0), structures=both)
    assert model.classes.objects == (1, 2) or model.classes.objects == (2,)


def test_losses_look_at_known_maps_and_rims_alone() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 12, 12, requires_grad=True)
    maps = torch.randn(1, 2, 12, 12, requires_grad=True)
    encoded = torch.full((1, 2, 12, 12), 255, dtype=torch.uint8)
    encoded[..., 4:8, 4:8] = 100
    targets = torch.full((1, 12, 12), 255, dtype=torch.uint8)
    targets[..., 4:8, 4:8] = 1
    batch = LossInputs(logits, logits, targets, maps=(maps, encoded))
    object_map_loss(batch).value.backward()
    assert maps.grad is not None
    assert set(map(tuple, torch.nonzero(maps.grad[0, 0]).tolist())) == {
        (y, x) for y in range(4, 8) for x in range(4, 8)
    }
    rim_loss(batch).value.backward()
    assert logits.grad is not None
    changed = logits.grad[0, 0] != 0
    assert not changed[4:8, 4:8].any()
    assert changed[2:10, 2:10].sum() == 64 - 16
    assert changed.sum() == 48
    assert (logits.grad[0, 0][changed] > 0).all()  # towards background
