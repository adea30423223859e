"""Objects of what is predicted for the window, as soon as its tiles are there."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers import of_kind, random_model, run_training, tiny
from hypothesis import given
from hypothesis import strategies as st

from napari_unetseg.core.events import TilePredicted
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import LabelKind, Structure
from napari_unetseg.core.settings import ObjectSettings, PredictSettings
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.data.object_ids import find_objects
from napari_unetseg.inference.predict import predict, predict_events
from napari_unetseg.jobs import plane_objects
from napari_unetseg.jobs.live_predictor import LivePredictor, Viewport, ViewportState, ViewportTask
from napari_unetseg.jobs.plane_objects import MOST_VOXELS, ObjectsFound, visible_part
from napari_unetseg.jobs.tasks import PredictTask
from napari_unetseg.training.training_events import ModelUpdated

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model

HOW = ObjectSettings(prominence=0.1)


def cells(*planes: int) -> Stack:
    """Bright rectangles side by side, of two sizes."""
    return Stack.from_array(np.broadcast_to(rectangles()[0], (*planes, 80, 72)).copy())


def rectangles() -> tuple[np.ndarray, np.ndarray]:
    image, ids = np.full((80, 72), 0.1, np.float32), np.zeros((80, 72), np.int32)
    for number, (y, x) in enumerate(np.ndindex(4, 4), 1):
        at = slice(20 * y + 4, 20 * y + 16), slice(18 * x + 5 * (x % 2 == 0), 18 * x + 17)
        ids[at], image[at] = number, 0.8
    return image, ids


@cache
def _trained() -> Model:
    image, ids = rectangles()
    pair = AnnotatedImage(Stack.from_array(image), ids, LabelKind.INSTANCES)
    settings = tiny(steps=60, width=8, validation_fraction=0.0)
    structures = (Structure(1, "nuclei", objects=True),)
    model: Model = run_training([pair], settings, structures=structures)[0]
    return model


def of_objects(settings: ObjectSettings | None = HOW) -> Model:
    """A model of such rectangles."""
    return replace(_trained(), object_settings=settings)


@pytest.mark.parametrize("settings", [HOW, None])
def test_objects_follow_the_last_tile_of_each_plane(settings: ObjectSettings | None) -> None:
    model, stack = of_objects(settings), cells(2)
    task = PredictTask(model, stack, None, PredictSettings(device="cpu", tile=32))
    events = list(task(JobControl(1)))
    found = of_kind(events, ObjectsFound)
    assert [one.plane for one in found] == [(0,), (1,)]
    assert all(tile.maps is None for tile in of_kind(events, TilePredicted))
    last = [e for e in of_kind(events, TilePredicted) if e.plane == (0,)][-1]
    assert events[events.index(last) + 1] is found[0]
    mask = predict(model, stack, PredictSettings(device="cpu"))
    for one in found:
        np.testing.assert_array_equal(one.mask, mask[one.index])
        assert {*np.unique(one.ids), 0} == set(range(one.ids.max() + 1))
        assert one.ids.max() >= 8
        assert not one.ids[one.mask == 0].any()
    whole = PredictSettings(device="cpu", object_maps=True)
    (tile,) = of_kind(list(predict_events(model, stack, whole, planes=[(0,)])), TilePredicted)
    maps = tile.maps if settings else None
    alone = find_objects(tile.mask, maps, (1,), settings, (1.0, 1.0))
    assert abs(int(alone.max()) - int(found[0].ids.max())) <= 2  # maps travel as 8 bit


def test_other_settings_give_other_objects_of_the_same_maps() -> None:
    task = PredictTask(of_objects(), cells(), None, PredictSettings(device="cpu"))
    (found,) = of_kind(list(task(JobControl(1))), ObjectsFound)
    fewer = found.found_with(HOW.model_copy(update={"smallest": 175}))
    assert 0 < fewer.ids.max() < found.ids.max()
    np.testing.assert_array_equal(found.found_with(HOW).ids, found.ids)


def test_structures_that_are_areas_have_no_objects() -> None:
    model = random_model(depth=2, width=4)
    task = PredictTask(model, cells(), None, PredictSettings(device="cpu"))
    assert not of_kind(list(task(JobControl(1))), ObjectsFound)


def test_a_training_and_the_idle_window_have_them_too() -> None:
    screen, control = ViewportState(), JobControl(1)
    screen.view = Viewport("layer", cells(2), (1,))
    live = LivePredictor(screen, "cpu", control)
    during = list(live.after(ModelUpdated(of_objects(), None, 1.0)))
    (found,) = of_kind(during, ObjectsFound)
    idle = ViewportTask(of_objects(), screen, "cpu", frozenset({(0,)}))
    (again,) = of_kind(list(idle(control)), ObjectsFound)
    assert found.plane == again.plane == (1,)
    np.testing.assert_array_equal(found.ids, again.ids)


def test_of_a_large_plane_the_visible_part_is_numbered_before_the_rest_is_predicted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plane_objects, "USUAL_VOXELS", 144)
    screen = ViewportState()
    screen.view, screen.seen = Viewport("layer", cells(), ()), (slice(40, 50), slice(40, 50))
    task = ViewportTask(of_objects(), screen, "cpu", frozenset())
    monkeypatch.setattr("napari_unetseg.inference.predict.EDGE", {2: 32})
    events = list(task(JobControl(1)))
    (found,) = of_kind(events, ObjectsFound)
    assert found.region == (slice(39, 51), slice(39, 51))
    assert events.index(found) < len(events) - 1


sides = st.tuples(st.integers(1, 9000), st.integers(1, 9000))


@given(sides, st.data())
def test_the_numbered_part_has_all_that_is_seen_unless_it_is_too_large(
    shape: tuple[int, int], data: st.DataObject
) -> None:
    starts = [data.draw(st.integers(0, n - 1)) for n in shape]
    ends = [data.draw(st.integers(a + 1, n)) for a, n in zip(starts, shape, strict=True)]
    seen = tuple(map(slice, starts, ends))
    part = visible_part(shape, seen)
    assert all(0 <= p.start < p.stop <= n for p, n in zip(part, shape, strict=True))
    assert math.prod(p.stop - p.start for p in part) <= MOST_VOXELS
    if math.prod(s.stop - s.start for s in seen) <= MOST_VOXELS:
        assert all(p.start <= s.start and s.stop <= p.stop for p, s in zip(part, seen, strict=True))
