"""Strokes on their way to a training that runs: all of them, soon, and without copies."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from live_parts import Puppet
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_unetseg.annotations.annotation_store import ImageAnnotations, LabelSource
from napari_unetseg.annotations.sparse_array import CHUNK, SparseArray
from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.data.image_grids import LabelCounter, count_labels
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.services import annotation_feed, annotation_snapshot
from napari_unetseg.gui.services import annotations as annotation_service
from napari_unetseg.gui.services.job_runner import ThreadRunner
from napari_unetseg.gui.state.session import Mode

PLANES, SIDE = 24, 300


class Desk:
    """A plugin with worker threads and no window; its training does nothing but take offers."""

    def __init__(self, puppet: Puppet) -> None:
        self.puppet, self.began = puppet, list[tuple[AnnotatedImage, ...]]()
        self.viewer = ViewerModel()
        self.image = self.viewer.add_layer(Image(np.zeros((PLANES, SIDE, SIDE), np.uint8)))
        data = np.zeros((PLANES, SIDE, SIDE), np.uint8)
        data[:, :40, :200], data[:, 280:, ::2] = 1, BACKGROUND_LABEL
        self.plugin = Plugin(self.viewer, ThreadRunner())
        self.session = self.plugin.session
        self.session.mode = Mode.ONCE
        self.layer = self.viewer.add_layer(Labels(data))
        self.plugin.sources.choose_labels(self.layer, LabelKind.STROKES)
        self.wait(lambda: self.session.counts.get(1, 0) > 0)

    def train_events(self, pairs: Any, *args: Any, **named: Any) -> Any:
        self.began.append(tuple(pairs))
        return self.puppet.train_events(pairs, *args, **named)

    def paint(self, place: tuple[int, int, int], value: int = 1) -> None:
        self.layer.data_setitem(tuple(np.array([n]) for n in place), value)

    def wait(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.session.message.text
            self.plugin.tick()
            time.sleep(0.002)

    def train(self) -> None:
        self.plugin.training.start()
        self.wait(lambda: bool(self.began))

    def offered(self, place: tuple[int, int, int], value: int = 1) -> bool:
        """Whether any offer had that value there."""
        return any(pairs[0].labels[place] == value for pairs in self.puppet.offered)


@pytest.fixture
def desk(broken_core: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(annotation_service, "ANNOUNCE_SECONDS", 0.0)
    desk = Desk(Puppet())
    broken_core(desk.train_events)
    yield desk
    desk.plugin.close()


class Gate:
    """In the place of a function: waits until it may go on."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self.entered, self.open = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, *args: Any, **named: Any) -> Any:
        self.entered.release()
        assert self.open.acquire(timeout=20)
        return self._function(*args, **named)


def gate_the_first_pair(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """A training that waits before it looks at what there is to train on; offers do not wait."""
    real = annotation_snapshot.Snapshot.pair
    gate, left = Gate(real), [1]

    def pair(snapshot: annotation_snapshot.Snapshot) -> Any:
        return gate(snapshot) if left and left.pop() else real(snapshot)

    monkeypatch.setattr(annotation_snapshot.Snapshot, "pair", pair)
    return gate


def test_strokes_are_offered_even_if_a_later_one_comes_before_each_is_looked_at(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.train()
    gate = Gate(annotation_snapshot.newer_pairs)
    monkeypatch.setattr(annotation_feed, "newer_pairs", gate)
    places = [(number % PLANES, 100 + number, 100) for number in range(5)]
    desk.paint(places[0])
    for place, later in zip(places, [*places[1:], None], strict=True):
        desk.wait(lambda: gate.entered.acquire(blocking=False))
        if later is not None:
            desk.paint(later)  # while the earlier one is looked at
        desk.plugin.tick()
        gate.open.release()
        desk.wait(lambda place=place: desk.offered(place))
        assert later is None or not desk.offered(later)


def test_training_and_offers_copy_no_labels_in_the_gui_thread(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the chunk that is painted on is copied; the others are the very arrays."""
    gate = gate_the_first_pair(monkeypatch)
    tracemalloc.start()
    try:
        desk.plugin.training.start()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < desk.layer.data.nbytes / 4
    gate.open.release()
    desk.wait(lambda: bool(desk.began))
    grid = desk.plugin.annotations.of(desk.image).grid(LabelSource.STROKES)
    (pair,) = desk.began[0]
    assert [c for c in grid.cells() if not pair.labels.same_chunk(grid, c)] == []
    assert len(grid.cells()) > PLANES
    desk.paint((1, 100, 100))
    desk.wait(lambda: desk.offered((1, 100, 100)))
    (newest,) = desk.puppet.offered[-1]
    assert [c for c in grid.cells() if not newest.labels.same_chunk(pair.labels, c)] == [(1, 0, 0)]


def test_a_training_sees_what_was_painted_before_it_began_and_later_strokes_by_an_offer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = gate_the_first_pair(monkeypatch)
    desk.paint((0, 150, 150), 2)
    desk.plugin.training.start()
    assert gate.entered.acquire(timeout=20)
    desk.paint((0, 150, 151), 2)  # into a chunk that is to be learned from
    desk.paint((2, 290, 290), 2)  # and into another one
    gate.open.release()
    desk.wait(lambda: bool(desk.began))
    (pair,) = desk.began[0]
    assert [int(pair.labels[p]) for p in ((0, 150, 150), (0, 150, 151), (2, 290, 290))] == [
        2,
        0,
        255,
    ]
    desk.wait(lambda: desk.offered((0, 150, 151), 2) and desk.offered((2, 290, 290), 2))
    assert int(pair.labels[0, 150, 151]) == 0, "it stays as it was"


def test_what_a_script_writes_without_a_word_is_learned_from_and_stays_so(desk: Desk) -> None:
    desk.layer.data[1, 200, 200] = 3  # nobody is told
    desk.train()
    assert desk.began[0][0].labels[1, 200, 200] == 3
    desk.paint((2, 200, 200), 2)
    desk.wait(lambda: desk.offered((2, 200, 200), 2))
    assert all(pairs[0].labels[1, 200, 200] == 3 for pairs in desk.puppet.offered)


def test_nothing_is_offered_where_nothing_changed(desk: Desk) -> None:
    desk.train()
    desk.paint((0, 100, 100))
    desk.wait(lambda: desk.offered((0, 100, 100)))
    desk.layer.undo()
    desk.layer.redo()
    desk.layer.refresh()
    desk.plugin.annotations.announce()
    desk.paint((0, 100, 102))
    desk.wait(lambda: desk.offered((0, 100, 102)))
    held = [int(pairs[0].labels[0, 100, 100]) for pairs in desk.puppet.offered]
    assert held.count(1) <= 2, "the same is not offered again"


def test_a_next_training_works_out_again_what_wins_only_where_something_was_said(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = desk.plugin.annotations.of(desk.image)
    for plane in range(PLANES):
        region = (slice(plane, plane + 1), slice(0, SIDE), slice(0, SIDE))
        truth.record(LabelSource.CORRECTIONS, region, np.full((1, SIDE, SIDE), 2, np.uint8))
    desk.train()
    desk.plugin.jobs.stop()
    desk.wait(lambda: desk.session.job is None)
    computed: list[Any] = []
    real = ImageAnnotations.effective_overrides
    monkeypatch.setattr(
        ImageAnnotations, "effective_overrides", lambda t, r: computed.append(r) or real(t, r)
    )
    desk.paint((1, 150, 150))
    desk.began.clear()
    desk.train()
    assert computed == [(slice(1, 2), slice(0, CHUNK), slice(0, CHUNK))]
    (pair,) = desk.began[0]
    assert (pair.corrections[1, 150, 150], pair.corrections[2, 150, 150]) == (0, 2)
    desk.viewer.layers.remove(desk.image)
    assert not desk.plugin.feed._offered


def test_an_offer_that_fails_is_said_and_the_next_one_comes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.train()

    def fails(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(annotation_feed, "newer_pairs", fails)
        desk.paint((0, 100, 100))
        desk.wait(lambda: "Reading the new annotations" in desk.session.message.text)
    desk.paint((0, 100, 102))
    desk.wait(lambda: desk.offered((0, 100, 102)))
    assert desk.offered((0, 100, 100))


def test_labels_are_counted_again_only_where_they_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    grid, counter = SparseArray((2, 600, 600), np.int32), LabelCounter()
    everything = (slice(0, 2), slice(0, 600), slice(0, 600))
    grid.write(everything, rng.integers(0, 400, (2, 600, 600)).astype(np.int32))
    assert counter.count(grid.snapshot()) == count_labels(np.asarray(grid))
    counted: list[tuple[int, ...]] = []
    real = np.unique
    monkeypatch.setattr(np, "unique", lambda a, **k: counted.append(a.shape) or real(a, **k))
    spot = (slice(1, 2), slice(300, 320), slice(10, 20))
    grid.write(spot, np.full((1, 20, 10), 7, np.int32))
    found = counter.count(grid.snapshot())
    assert len(counted) == 1
    grid.write((slice(0, 1), slice(0, 600), slice(0, 600)), np.zeros((1, 600, 600), np.int32))
    emptied = counter.count(grid.snapshot())
    monkeypatch.undo()
    assert emptied == count_labels(np.asarray(grid))
    assert found != emptied
