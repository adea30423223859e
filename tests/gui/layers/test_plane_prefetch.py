"""Planes that scrolling comes to next are read before they are shown, and nothing else is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui.layers.plane_prefetch import PLANES, PlanePrefetch
from napari_unetseg.io.open_image import open_stack
from napari_unetseg.io.readers.lazy_array import FileArray, LazyView, full_key

SHAPE = (12, 40, 50)


class Written(FileArray):
    """A stack that writes down which plane was read, and whether by the thread of the window."""

    def __init__(self, damaged: int = -1) -> None:
        self.shape, self.dtype, self.damaged = SHAPE, np.dtype(np.uint8), damaged
        self.read: list[tuple[int, bool]] = []

    def __getitem__(self, key: Any) -> np.ndarray:
        plane = full_key(key, self.shape)[0]
        plane = plane.start if isinstance(plane, slice) else plane
        self.read.append((plane, threading.current_thread() is threading.main_thread()))
        if plane == self.damaged:
            raise UserError("This plane is damaged.")
        return np.zeros(SHAPE, np.uint8)[key]

    def ahead(self) -> list[int]:
        """Planes that were read beside the window."""
        return [plane for plane, main in self.read if not main]


@pytest.fixture
def viewer() -> Iterator[ViewerModel]:
    made = ViewerModel()
    ahead = PlanePrefetch(made)
    yield made
    ahead.close()


def add(viewer: ViewerModel, data: Any) -> Image:
    shown = (
        LazyView(data) if isinstance(data, FileArray) else data
    )  # as our reader gives it to napari
    layer = Image(shown, contrast_limits=(0, 255))
    viewer.add_layer(layer)
    viewer.dims.set_current_step(0, 5)
    return layer


def test_the_next_planes_in_the_direction_of_the_slider_are_read(
    viewer: ViewerModel, qtbot: Any
) -> None:
    data = Written()
    add(viewer, data)
    for step, wanted in ((6, [7, 8]), (7, [8, 9]), (6, [5, 4])):
        data.read.clear()
        viewer.dims.set_current_step(0, step)
        qtbot.waitUntil(lambda: len(data.ahead()) >= PLANES)
        assert data.ahead() == wanted
        assert [plane for plane, main in data.read if main] == [step]


def test_nothing_is_read_beyond_the_ends(viewer: ViewerModel, qtbot: Any) -> None:
    data = Written()
    add(viewer, data)
    viewer.dims.set_current_step(0, 9)
    qtbot.waitUntil(lambda: data.ahead()[-2:] == [10, 11])
    data.read.clear()
    viewer.dims.set_current_step(0, 10)
    qtbot.waitUntil(lambda: data.ahead() == [11])
    viewer.dims.set_current_step(0, 11)
    viewer.dims.set_current_step(0, 10)
    qtbot.waitUntil(lambda: data.ahead()[-2:] == [9, 8])
    assert data.ahead() == [11, 9, 8]


def test_a_damaged_plane_ahead_is_no_trouble_until_it_is_shown(
    viewer: ViewerModel, qtbot: Any
) -> None:
    data = Written(damaged=8)
    add(viewer, data)
    viewer.dims.set_current_step(0, 7)
    qtbot.waitUntil(lambda: data.ahead()[-2:] == [8, 9])
    with pytest.raises(UserError, match="damaged"):
        viewer.dims.set_current_step(0, 8)


def test_what_is_hidden_and_arrays_of_others_are_left_alone(
    viewer: ViewerModel, qtbot: Any
) -> None:
    hidden, data = Written(), Written()
    add(viewer, hidden).visible = False
    add(viewer, np.zeros(SHAPE, np.uint8))
    add(viewer, data)
    hidden.read.clear()
    viewer.dims.set_current_step(0, 6)
    qtbot.waitUntil(lambda: data.ahead()[-2:] == [7, 8])
    assert hidden.read == []


def test_files_in_memory_of_the_system_are_read_page_by_page(
    viewer: ViewerModel, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched: list[int] = []

    class Mapped(np.memmap):
        def max(self, *args: Any, **options: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                touched.append(int(np.asarray(self)[0, 0]))
            return super().max(*args, **options)

    data = Mapped(tmp_path / "labels.raw", np.uint8, "w+", shape=SHAPE)
    data[:] = np.arange(SHAPE[0], dtype=np.uint8)[:, None, None]
    viewer.add_layer(Labels(data))
    viewer.dims.set_current_step(0, 5)
    touched.clear()
    viewer.dims.set_current_step(0, 6)
    qtbot.waitUntil(lambda: touched[-2:] == [7, 8])


def test_of_a_stack_in_levels_what_is_in_sight_is_read_at_each_that_is_shown(
    viewer: ViewerModel, qtbot: Any
) -> None:
    class Part(Written):
        def __init__(self, shape: tuple[int, ...]) -> None:
            super().__init__()
            self.shape, self.keys = shape, []  # type: list[Any]

        def __getitem__(self, key: Any) -> np.ndarray:
            if threading.current_thread() is not threading.main_thread():
                self.keys.append(full_key(key, self.shape))
            return np.zeros(self.shape, np.uint8)[key]

    full, small = Part((12, 400, 500)), Part((12, 100, 125))
    layer = Image([full, small], multiscale=True, contrast_limits=(0, 255), scale=(2, 0.5, 0.5))
    viewer.add_layer(layer)
    viewer.dims.set_current_step(0, 5)
    layer.data_level = 0
    layer.corner_pixels = np.array([[0, 10, 20], [0, 109, 219]])
    full.keys.clear()
    small.keys.clear()
    viewer.dims.set_current_step(0, 6)
    qtbot.waitUntil(lambda: len(small.keys) >= PLANES)
    assert full.keys[-2:] == [(p, slice(10, 110), slice(20, 220)) for p in (7, 8)]
    assert small.keys[-2:] == [(p, slice(0, 100), slice(0, 125)) for p in (7, 8)]


def test_it_ends_without_a_thread_left(qtbot: Any) -> None:
    viewer, data = ViewerModel(), Written()
    ahead = PlanePrefetch(viewer)
    add(viewer, data)
    viewer.dims.set_current_step(0, 6)
    qtbot.waitUntil(lambda: data.ahead()[-2:] == [7, 8])
    ahead.close()
    names = lambda: [t.name for t in threading.enumerate()]  # noqa: E731
    qtbot.waitUntil(lambda: not any(n.startswith("unetseg-ahead") for n in names()))
    data.read.clear()
    viewer.dims.set_current_step(0, 7)
    assert data.ahead() == []


def test_a_real_stack_shows_the_same_with_it(
    viewer: ViewerModel, qtbot: Any, tmp_path: Path
) -> None:
    array = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)
    np.save(tmp_path / "stack.npy", array)
    stack = open_stack(tmp_path / "stack.npy", axes="ZYX")
    layer = Image(stack.data, contrast_limits=(0, 255))
    viewer.add_layer(layer)
    for step in (5, 6, 7, 6, 2, 11):
        viewer.dims.set_current_step(0, step)
        qtbot.wait(10)
        assert (np.asarray(layer._slice.image.raw) == array[step]).all()
