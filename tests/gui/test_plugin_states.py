"""Whatever people and models do in whatever order: no voxel of a user's changes unasked.

The real plugin, layers and networks run without a window; plain dense arrays (`said_parts`)
say what must be there. ``UNETSEG_STATES=500`` runs as many examples as the project promises.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from live_parts import constant
from napari.components import ViewerModel
from napari.layers import Image, Labels, Shapes
from project_parts import kill
from said_parts import Oracle, said_of
from scipy import ndimage
from sync_runner import SyncRunner

from napari_unetseg.annotations import object_edits
from napari_unetseg.annotations.annotation_store import ImageAnnotations, LabelSource
from napari_unetseg.annotations.object_strokes import redrawn
from napari_unetseg.annotations.sparse_array import whole
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, TilePredicted
from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.gui.features import training
from napari_unetseg.gui.plugin import Plugin
from napari_unetseg.gui.services import annotations as annotation_service
from napari_unetseg.gui.services.annotation_snapshot import take_snapshots
from napari_unetseg.gui.state.session import Level, Mode, ModelEntry, ObjectTool
from napari_unetseg.io.project import locations
from napari_unetseg.io.project.project import Project
from napari_unetseg.jobs.plane_objects import ObjectsFound
from napari_unetseg.training.training_events import (
    ModelUpdated,
    Outcome,
    TrainingDone,
    TrainingPrepared,
)

EXAMPLES = int(os.environ.get("UNETSEG_STATES", "25"))
STEPS = 30
ROWS, COLUMNS = 12, 14
AHEAD = 2

numbers = st.sampled_from([0, 1, 2, 255])
spots = st.tuples(st.integers(0, ROWS - 1), st.integers(0, COLUMNS - 1))
dabs = st.lists(st.tuples(spots, st.integers(1, 6)), min_size=1, max_size=4)
corners = st.tuples(spots, spots)
masks = st.integers(0, 2**32 - 1)


class Mouse:
    """An event of napari's mouse."""

    button, type = 1, "mouse_press"

    def __init__(self, position: tuple[float, ...]) -> None:
        self.position = position


class Hands(RuleBasedStateMachine):
    """An image, its annotations, its mask; rules are what people and models do."""

    def __init__(self) -> None:
        super().__init__()
        constant(0)  # made by the real training, before another takes its place
        self.patch = pytest.MonkeyPatch()
        # trainings begin when a rule says so
        self.patch.setattr(training, "PAUSE_SECONDS", 1e9)
        self.patch.setattr(annotation_service, "ANNOUNCE_SECONDS", 0.0)
        self.patch.setattr(os, "fsync", lambda _: None)  # no power is cut here, and disks are slow
        self.patch.setattr(locations, "recovery_folder", lambda: self.home / "recovery")
        self.patch.setattr(locations, "_recent_file", lambda: self.home / "recent.json")
        self.patch.setattr("napari_unetseg.training.train.train_events", self._train_events)
        self.trained: list[Any] = []
        self.made = self.named = 0
        self.fails = ""
        self.home = Path(tempfile.mkdtemp(prefix="states-"))
        self.next_model: Any = None
        self.before: ModelEntry | None = None

    @initialize(deep=st.booleans())
    def open(self, deep: bool) -> None:
        shape = (3, ROWS, COLUMNS) if deep else (ROWS, COLUMNS)
        self.pixels = np.random.default_rng(0).integers(0, 99, shape, np.uint8)
        self.oracle = Oracle(shape)
        self.window()
        layer = self.plugin.sources.new_annotation()
        assert layer is not None
        self.strokes: Labels = layer
        self.plugin.session.structures = tuple(
            replace(s, objects=True) for s in self.plugin.session.structures
        )
        self.entry(0)

    def window(self) -> None:
        """A viewer with the image, and a plugin."""
        self.viewer = ViewerModel()
        self.image = self.viewer.add_layer(Image(self.pixels, name="cells"))
        self.plugin = Plugin(self.viewer, SyncRunner())
        self.shapes = Shapes(ndim=2)
        self.viewer.layers.append(self.shapes)

    def teardown(self) -> None:
        if hasattr(self, "plugin"):
            assert self.plugin.close()
            self.viewer.layers.clear()
        self.patch.undo()
        shutil.rmtree(self.home)

    # -- parts ----------------------------------------------------------------------------------

    @property
    def session(self) -> Any:
        return self.plugin.session

    @property
    def plane(self) -> tuple[int, ...]:
        point = self.viewer.dims.point
        return (int(point[0]),) if len(self.oracle.shape) == 3 else ()

    @property
    def mask(self) -> Labels:
        prediction = self.plugin.masks.current
        assert prediction is not None
        assert prediction.layer is not None
        return prediction.layer

    def entry(self, number: int) -> None:
        """Another model is in use."""
        self.made += 1
        entry = ModelEntry(constant(number, 0.01 * self.made), f"model {self.made}")
        self.plugin.models.add(entry)
        self.oracle.numbers.setdefault(entry.model.id, {})

    def says(self, model: Any) -> int:
        """The number that a constant model says everywhere."""
        return int(model.weights["head.bias"].item() > 0)

    def spot(self, low: Sequence[int], high: Sequence[int]) -> tuple[Any, ...]:
        """A rectangle of the plane on screen, both corners inside."""
        spans = zip(low, high, strict=True)
        return (*self.plane, *(slice(min(a, b), max(a, b) + 1) for a, b in spans))

    def dab(self, layer: Labels, at: tuple[int, int], size: int, number: int) -> None:
        layer.brush_size = size
        layer.paint((*self.plane, *at), number)

    def _train_events(
        self, pairs: Any, *_: Any, **__: Any
    ) -> Generator[Event, None, Any]:  # in the place of the core's
        self.trained.append(pairs)
        model = self.next_model
        yield TrainingPrepared(0, 5, 10, 100, 0, 0, "cpu", 99, (32, 32), 2)
        if self.fails == "early":
            raise OSError("no more of it")
        yield ModelUpdated(model, None, 0.0)
        if self.fails:
            raise OSError("no more of it")
        yield TrainingDone(Outcome.EARLY_STOPPED, "Done.", None, 1, 1, 1.0)
        return model

    # -- strokes --------------------------------------------------------------------------------

    def paint_on(self, layer: Labels, number: int, stroke: Any) -> None:
        with layer.block_history():
            for at, size in stroke:
                self.dab(layer, at, size, number)

    def change(self, layer: Labels, how: str, number: int, low: Any, high: Any) -> None:
        """One of napari's other tools."""
        layer.n_edit_dimensions = len(self.oracle.shape) if how == "fill all" else 2
        top, left = (min(a, b) for a, b in zip(low, high, strict=True))
        bottom, right = (max(a, b) for a, b in zip(low, high, strict=True))
        match how:
            case "fill" | "fill all":
                layer.fill((*self.plane, *low), number)
            case "polygon":
                around = [(top, left), (top, right), (bottom, right), (bottom, left)]
                layer.paint_polygon([(*self.plane, *corner) for corner in around], number)
            case "set":
                places = np.meshgrid(np.arange(top, bottom + 1), np.arange(left, right + 1))
                plane = [np.full(places[0].size, p) for p in self.plane]
                layer.data_setitem((*plane, *(p.ravel() for p in places)), number)
        layer.n_edit_dimensions = 2

    tools = st.sampled_from(["fill", "fill all", "polygon", "set"])

    @rule(number=numbers, stroke=dabs)
    def paint(self, number: int, stroke: Any) -> None:
        self.paint_on(self.strokes, number, stroke)
        self.oracle.stroke(self.strokes.data)

    @rule(number=numbers, how=tools, area=corners)
    def draw(self, number: int, how: str, area: Any) -> None:
        self.change(self.strokes, how, number, *area)
        self.oracle.stroke(self.strokes.data)

    @rule()
    def undo_stroke(self) -> None:
        self.strokes.undo()
        self.oracle.undo_stroke()

    @rule(number=numbers, spot=spots, meanwhile=st.booleans())
    def take_labels_off_and_on(self, number: int, spot: tuple[int, int], meanwhile: bool) -> None:
        """No labels for a moment; what is painted on the layer then counts when it is back."""
        self.plugin.sources.choose_labels(None)
        if meanwhile:
            self.dab(self.strokes, spot, 3, number)
        self.plugin.sources.choose_labels(self.strokes)
        self.oracle.stroke(self.strokes.data)

    @rule(onto=st.sampled_from(["strokes", "mask"]), wide=st.booleans(), area=corners)
    def give_another_array(self, onto: str, wide: bool, area: Any) -> None:
        """A script gives a layer data of its own; what differs was done by the user."""
        if onto == "mask" and not self.oracle.alive:
            return
        layer = self.strokes if onto == "strokes" else self.mask
        data = layer.data.astype(np.int32 if wide else np.uint8)
        data[self.spot(*area)] = 1
        layer.data = data
        if onto == "strokes":
            self.oracle.stroke(data)
            self.oracle.strokes_past.clear()
            self.oracle.strokes_future.clear()
        else:
            self.oracle.paint_mask(data.astype(np.uint8))
            self.oracle.forget_history()
            assert self.mask.data.dtype == np.uint8
        assert not layer._undo_history

    @rule()
    def redo_stroke(self) -> None:
        self.strokes.redo()
        self.oracle.redo_stroke()

    # -- corrections ----------------------------------------------------------------------------

    def has_mask(self) -> bool:
        return hasattr(self, "oracle") and self.oracle.alive

    @precondition(has_mask)
    @rule(number=numbers, stroke=dabs)
    def correct(self, number: int, stroke: Any) -> None:
        self.paint_on(self.mask, number, stroke)
        self.oracle.paint_mask(self.mask.data)

    @precondition(has_mask)
    @rule(number=numbers, how=tools, area=corners)
    def correct_with(self, number: int, how: str, area: Any) -> None:
        self.change(self.mask, how, number, *area)
        self.oracle.paint_mask(self.mask.data)

    @precondition(has_mask)
    @rule()
    def undo_correction(self) -> None:
        self.follow_history()
        self.mask.undo()
        self.oracle.undo_mask()

    @precondition(has_mask)
    @rule()
    def redo_correction(self) -> None:
        self.follow_history()
        self.mask.redo()
        self.oracle.redo_mask()

    @precondition(has_mask)
    @rule(area=corners, redone=st.booleans(), onto=st.sampled_from(["strokes", "mask"]))
    def undo_what_the_other_layer_disagrees_with(self, area: Any, redone: bool, onto: str) -> None:
        """Painted twice, the other layer painted there, then an undo: it is the newest word."""
        self.follow_history()
        draw, other = self.draw, self.correct_with
        undo, redo = self.undo_stroke, self.redo_stroke
        if onto == "mask":
            draw, other = other, draw
            undo, redo = self.undo_correction, self.redo_correction
        draw(1, "polygon", area)
        draw(2, "polygon", area)
        other(BACKGROUND_LABEL, "polygon", area)
        undo()
        if redone:
            redo()

    def follow_history(self) -> None:
        """A new mask may have begun the layer's history anew; how far it goes back is napari's."""
        past, future = len(self.mask._undo_history), len(self.mask._redo_history)
        assert past <= len(self.oracle.mask_past)
        assert future <= len(self.oracle.mask_future)
        del self.oracle.mask_past[: len(self.oracle.mask_past) - past]
        del self.oracle.mask_future[: len(self.oracle.mask_future) - future]

    # -- masks ----------------------------------------------------------------------------------

    @rule(seed=masks, area=corners, known=st.booleans(), rests=st.booleans())
    def tile(self, seed: int, area: Any, known: bool, rests: bool) -> None:
        """A tile of a model comes, of the one before or of another."""
        self.begin(known)
        self.write(seed, area)
        self.end(rests)

    @rule(
        onto=st.sampled_from(["strokes", "mask"]),
        number=numbers,
        stroke=st.lists(st.tuples(spots, st.integers(1, 6)), min_size=2, max_size=5),
        seeds=st.lists(masks, min_size=1, max_size=3),
        area=corners,
        known=st.booleans(),
        rests=st.booleans(),
    )
    def tiles_in_a_stroke(
        self,
        onto: str,
        number: int,
        stroke: Any,
        seeds: list[int],
        area: Any,
        known: bool,
        rests: bool,
    ) -> None:
        """Tiles come while somebody paints, on the strokes or on the mask itself."""
        self.begin(known)
        self.follow_history()
        layer, history = (self.strokes if onto == "strokes" else self.mask), self.mask._undo_history
        before = len(self.oracle.mask_past)
        with layer.block_history():
            for turn, (at, size) in enumerate(stroke):
                self.dab(layer, at, size, number)
                if onto == "mask":
                    self.oracle.paint_mask(layer.data)
                if turn < len(seeds):
                    self.write(seeds[turn], area)
        if onto == "strokes":
            self.oracle.stroke(layer.data)
        self.end(rests)
        dabs_made = self.oracle.mask_past[before:]
        if self.mask._undo_history is history and dabs_made:  # no mask came over the stroke
            data = dabs_made[-1][1].copy()
            for then, after in reversed(dabs_made):  # tiles between them are not taken back
                data[then != after] = then[then != after]
            self.oracle.mask_past[before:] = [(data, dabs_made[-1][1])]

    def begin(self, known: bool) -> None:
        self.made += 1
        model = self.oracle.model if known and self.oracle.model else f"tiles {self.made}"
        self.target = self.plugin.masks.open(self.image, model, self.session.structures)
        self.oracle.begin(model)

    def write(self, seed: int, area: Any) -> None:
        spot = self.spot(*area)
        size = tuple(s.stop - s.start for s in spot[-2:])
        mask = np.random.default_rng(seed).integers(0, 3, size, np.uint8)
        self.target.write(TilePredicted(self.plane, spot[-2:], mask, None, 1, 1))
        self.oracle.tile(spot, mask)

    def end(self, rests: bool) -> None:
        if rests:
            self.target.detach()
        else:
            self.target.close()
            self.oracle.finish()

    @rule(number=st.integers(0, 1), stack=st.booleans(), new=st.booleans())
    def predict(self, number: int, stack: bool, new: bool) -> None:
        if new:
            self.entry(number)
        (self.plugin.prediction.predict_stack if stack else self.plugin.prediction.predict_plane)()
        planes = self.oracle.planes() if stack else [self.plane]
        self.predicted(planes, self.session.entry.model)
        self.oracle.finish()

    def predicted(self, planes: Sequence[tuple[int, ...]], model: Any) -> None:
        self.oracle.begin(model.id)
        for plane in planes:
            everything = (*plane, slice(0, ROWS), slice(0, COLUMNS))
            self.oracle.tile(everything, np.full((ROWS, COLUMNS), self.says(model), np.uint8))

    @rule(mode=st.sampled_from(list(Mode)))
    def switch(self, mode: Mode) -> None:
        self.session.mode = mode

    @rule(plane=st.integers(0, 2))
    def scroll(self, plane: int) -> None:
        if len(self.oracle.shape) == 3:
            self.viewer.dims.set_point(0, plane)

    @rule()
    def look(self) -> None:
        """Time passes: in live mode what is on screen is predicted, and its neighbours."""
        self.plugin.tick()
        model = self.session.entry.model
        stale = not self.oracle.is_fresh(self.plane, model.id)
        if self.session.mode is Mode.LIVE and self.oracle.alive and stale:
            here = self.plane[0] if self.plane else 0
            near = sorted(
                (p for p in self.oracle.planes() if not p or abs(p[0] - here) <= AHEAD),
                key=lambda p: (abs(p[0] - here), here - p[0]) if p else (0, 0),
            )
            self.predicted([p for p in near if not self.oracle.is_fresh(p, model.id)], model)

    @rule(number=st.integers(0, 1))
    def train(self, number: int) -> None:
        self.made += 1
        self.before = self.session.entry
        self.next_model = constant(number, 0.01 * self.made)
        self.check_pairs = self.oracle.strokes.values.copy(), self.oracle.winning()
        self.plugin.training.start()
        labels, corrections = self.check_pairs
        np.testing.assert_array_equal(self.trained[-1][0].labels, labels)
        self.same_corrections(self.trained[-1][0].corrections, corrections)
        self.same_corrections(self.trained[-1][0].objects, self.oracle.finished())
        self.oracle.mark()
        self.oracle.numbers.setdefault(self.next_model.id, {})
        if self.session.mode is Mode.LIVE:
            self.predicted([self.plane], self.next_model)
            self.oracle.finish()
        if self.session.mode is not Mode.FROZEN:
            self.predicted([self.plane], self.next_model)
            self.oracle.finish()

    @rule(number=st.integers(0, 1), fails=st.sampled_from(["early", "late"]))
    def train_in_vain(self, number: int, fails: str) -> None:
        """A training fails; the model in use is what it was, and so is the one before.

        If a mask of a better model was on screen already, the mask before is brought back.
        """
        self.made += 1
        self.next_model, self.fails = constant(number, 0.01 * self.made), fails
        entry = self.session.entry
        self.plugin.training.start()
        self.fails = ""
        assert self.session.message.level is Level.ERROR
        assert self.session.entry is entry
        if fails == "late" and self.session.mode is Mode.LIVE:
            self.before = entry
            self.oracle.mark()
            self.predicted([self.plane], self.next_model)
            self.oracle.finish()

    def was_trained(self) -> bool:
        return self.before is not None

    @precondition(was_trained)
    @rule()
    def bring_back(self) -> None:
        before, self.before = self.before, self.session.entry
        self.plugin.comparison.bring_back()
        assert self.session.entry is before
        self.oracle.bring_back()

    @precondition(has_mask)
    @rule()
    def delete_mask(self) -> None:
        self.viewer.layers.remove(self.mask)
        self.oracle.alive = False
        self.oracle.forget_history()

    @rule()
    def add_structure(self) -> None:
        self.plugin.structures.add()

    # -- what people say ------------------------------------------------------------------------

    def everywhere(self) -> tuple[tuple[Any, ...], np.ndarray]:
        return self.spot((0, 0), (ROWS - 1, COLUMNS - 1)), np.ones((ROWS, COLUMNS), bool)

    def rectangle(self, area: Any) -> tuple[tuple[Any, ...], np.ndarray]:
        """Draw a rectangle around whole pixels and select it."""
        spot = self.spot(*area)
        rows, columns = spot[-2:]
        top, bottom = rows.start - 0.5, rows.stop - 0.5
        left, right = columns.start - 0.5, columns.stop - 0.5
        self.shapes.data = []
        self.shapes.add_rectangles([[top, left], [top, right], [bottom, right], [bottom, left]])
        self.viewer.layers.selection.active = self.shapes
        return spot, np.ones((rows.stop - rows.start, columns.stop - columns.start), bool)

    @rule()
    def accept_plane(self) -> None:
        self.plugin.review.accept_plane()
        if self.oracle.alive and self.oracle.covered[self.plane].all():
            self.oracle.accept([self.everywhere()])

    @rule(area=corners)
    def accept_shapes(self, area: Any) -> None:
        spot, where = self.rectangle(area)
        self.plugin.review.accept_shapes()
        if self.oracle.alive and self.oracle.covered[spot].all():
            self.oracle.accept([(spot, where)])

    @precondition(has_mask)
    @rule(at=spots)
    def accept_object(self, at: tuple[int, int]) -> None:
        self.viewer.cursor.position = (*self.plane, *at)
        data = self.mask.data[self.plane]
        self.plugin.review.accept_object()
        objects, _ = ndimage.label(data == data[at], np.ones((3, 3)))
        box = ndimage.find_objects((objects == objects[at]).astype(int))[0]
        if data[at] and self.oracle.covered[(*self.plane, *box)].all():
            self.oracle.accept([((*self.plane, *box), objects[box] == objects[at])])

    @rule(area=st.none() | corners)
    def take_back(self, area: Any) -> None:
        place = self.everywhere() if area is None else self.rectangle(area)
        review = self.plugin.review
        (review.withdraw_plane if area is None else review.withdraw_shapes)()
        if self.oracle.alive:
            self.oracle.take_back([place])

    @rule(area=st.none() | corners)
    def forget(self, area: Any) -> None:
        place = self.everywhere() if area is None else self.rectangle(area)
        review = self.plugin.review
        (review.drop_corrections_plane if area is None else review.drop_corrections_shapes)()
        if self.oracle.alive:
            self.oracle.forget([place])

    @rule()
    def forget_all(self) -> None:
        self.plugin.review.drop_corrections_all()
        if self.oracle.alive:
            planes = [p for p in self.oracle.planes() if self.oracle.corrections.values[p].any()]
            ones = np.ones((ROWS, COLUMNS), bool)
            self.oracle.forget([((*p, slice(0, ROWS), slice(0, COLUMNS)), ones) for p in planes])

    @rule()
    def undo_step(self) -> None:
        self.plugin.undo.undo()
        self.oracle.undo_step()

    @rule()
    def redo_step(self) -> None:
        self.plugin.undo.redo()
        self.oracle.redo_step()

    # -- objects --------------------------------------------------------------------------------

    def has_objects(self) -> bool:
        """Whether numbers are on screen, and can be edited."""
        if not hasattr(self, "oracle") or not self.oracle.alive:
            return False
        found = self.plugin.object_layers.current
        return found is not None and found.alive and self.consists_of_objects()

    def consists_of_objects(self) -> bool:
        return hasattr(self, "oracle") and any(s.objects for s in self.session.structures)

    @property
    def object_layer(self) -> Labels:
        found = self.plugin.object_layers.current
        assert found is not None
        assert found.layer is not None
        return found.layer

    @precondition(consists_of_objects)
    @rule(boxes=st.lists(corners, min_size=1, max_size=5), known=st.booleans(), rests=st.booleans())
    def find(self, boxes: Any, known: bool, rests: bool) -> None:
        """Objects of the plane on screen come with a mask."""
        self.begin(known)
        ids = np.zeros((ROWS, COLUMNS), np.int32)
        for number, box in enumerate(boxes, 1):
            ids[self.spot(*box)[-2:]] = number
        region, mask = (slice(0, ROWS), slice(0, COLUMNS)), (ids > 0).astype(np.uint8)
        objects = tuple(s.number for s in self.session.structures if s.objects)
        found = ObjectsFound(self.plane, region, ids, mask, None, objects, (1.0, 1.0))
        self.target.show_objects(found)
        self.mask.visible = True  # napari tells nothing of hidden layers
        self.end(rests)

    edits = st.sampled_from([t for t in ObjectTool if t not in ("", ObjectTool.PAINT)])

    @precondition(has_objects)
    @rule(tool=edits, start=spots, end=spots)
    def gesture(self, tool: ObjectTool, start: tuple[int, int], end: tuple[int, int]) -> None:
        """A drag or a click in the object layer."""
        new, ids = self.next_number(), self.object_layer.data[self.plane].copy()
        path = np.array([start, end], float)
        wanted = {
            ObjectTool.MERGE: lambda: object_edits.merge(ids, path),
            ObjectTool.SPLIT: lambda: object_edits.split(ids, path, new),
            ObjectTool.DELETE: lambda: object_edits.delete(ids, path[-1]),
            ObjectTool.ACCEPT: lambda: object_edits.accept(ids, path[-1]),
        }
        try:
            edit = wanted[tool]()
        except UserError:
            edit = None
        shown = self.mask.data.copy()
        self.plugin.objects.choose(tool)
        self.drag(start, end)
        if edit is None:
            assert self.session.message.level is Level.WARNING
        else:
            self.edited(edit, shown)

    @precondition(has_objects)
    @rule(stroke=dabs, erase=st.booleans(), again=st.none() | spots)
    def paint_object(self, stroke: Any, erase: bool, again: tuple[int, int] | None) -> None:
        """A new object, an eraser, or one drawn anew with its own number."""
        self.plugin.objects.choose(ObjectTool.PAINT)
        layer, before = self.object_layer, self.object_layer.data[self.plane].copy()
        number = 0 if erase else layer.selected_label
        new = not erase
        if not erase and again is not None and before[again]:
            number, new = int(before[again]), False
        brush = {s.number for s in self.session.structures if s.objects} & {self.session.brush}
        now = before.copy()
        painted = Labels(now)
        for at, size in stroke:
            painted.brush_size = size
            painted.paint(at, number)
        edit, shown = redrawn(before, now), self.mask.data.copy()
        self.paint_on(layer, number, stroke)
        if edit is not None:
            self.edited(edit, shown, next(iter(brush), 0) if new else 0)

    def next_number(self) -> int:
        """The number that the next new object has."""
        highest = self.plugin.object_layers.of(self.image).highest
        return max(highest + 1, self.plugin.annotations.of(self.image).next_object)

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        mouse = Mouse((*self.plane, *start))
        going = self.object_layer.mouse_drag_callbacks[-1](self.object_layer, mouse)
        next(going)
        mouse.type, mouse.position = "mouse_move", (*self.plane, *end)
        next(going)
        mouse.type = "mouse_release"
        for _ in going:
            raise AssertionError("the drag has ended")

    def edited(self, edit: object_edits.ObjectEdit, shown: np.ndarray, structure: int = 0) -> None:
        """An edit of the plane on screen was made, ``shown`` was the mask before."""
        spot, numbers = (*self.plane, *edit.region), edit.ids
        said = np.full(numbers.shape, BACKGROUND_LABEL, np.uint8)
        first = next(s.number for s in self.session.structures if s.objects)
        for number in np.unique(numbers[edit.changed & (numbers > 0)]):
            where = edit.changed & (numbers == number)
            of_mask = np.bincount(shown[spot][where], minlength=256)[1:BACKGROUND_LABEL]
            most = int(of_mask.argmax()) + 1 if of_mask.any() else first
            said[where] = structure or most
        self.oracle.edit_objects(spot, edit.changed, numbers, said)

    @precondition(has_objects)
    @rule()
    def delete_object_layer(self) -> None:
        self.viewer.layers.remove(self.object_layer)

    # -- structures -----------------------------------------------------------------------------

    @rule(which=st.integers(0, 9), other=st.integers(0, 9))
    def merge(self, which: int, other: int) -> None:
        """Make one structure another, or background."""
        numbers = [s.number for s in self.session.structures]
        number = numbers[which % len(numbers)]
        others = [n for n in [*numbers, BACKGROUND_LABEL] if n != number]
        self.end_structure(number, others[other % len(others)], self.plugin.classes.merge)

    @rule(which=st.integers(0, 9))
    def delete(self, which: int) -> None:
        """Delete a structure with all that is labelled of it."""
        numbers = [s.number for s in self.session.structures]
        number = numbers[which % len(numbers)]
        self.end_structure(number, 0, lambda one, _: self.plugin.classes.delete(one))

    def end_structure(self, number: int, into: int, act: Callable[[int, int], None]) -> None:
        left = [s for s in self.session.structures if s.number != number]
        act(number, into)
        if left:
            self.oracle.merge(number, into)
            assert [(s.number, s.name) for s in self.session.structures] == [
                (s.number, s.name) for s in left
            ]

    # -- the project ----------------------------------------------------------------------------

    @property
    def project(self) -> Project | None:
        return self.plugin.store.project

    def has_project(self) -> bool:
        return hasattr(self, "oracle") and self.project is not None

    def check_disk(self, strokes: np.ndarray) -> None:
        """What another window would find now."""
        project = self.project
        assert project is not None
        contents = Project.read(project.folder)
        (truth,) = contents.by_image.values()
        assert contents.lost == []
        self.same_truth(truth, strokes)

    def save_now(self) -> None:
        project = self.project
        assert project is not None
        project.save()
        assert project.unsaved_bytes == 0
        assert not project.trouble

    @precondition(has_project)
    @rule()
    def save(self) -> None:
        self.save_now()
        self.check_disk(self.oracle.strokes.values)

    @precondition(has_project)
    @rule(number=numbers, stroke=dabs, end=dabs)
    def save_in_a_stroke(self, number: int, stroke: Any, end: Any) -> None:
        """A snapshot is written while somebody paints; the stroke goes on after it."""
        before = self.oracle.strokes.values.copy()
        with self.strokes.block_history():
            for at, size in stroke:
                self.dab(self.strokes, at, size, number)
            self.save_now()
            self.check_disk(before)
            for at, size in end:
                self.dab(self.strokes, at, size, number)
        self.oracle.stroke(self.strokes.data)
        self.check_disk(self.oracle.strokes.values)

    @precondition(has_project)
    @rule()
    def give_a_name(self) -> None:
        self.named += 1
        self.plugin.saving.save_as(self.home / f"project {self.named}")
        assert self.session.project == self.home / f"project {self.named}"
        self.check_disk(self.oracle.strokes.values)

    @precondition(has_project)
    @rule(killed=st.booleans())
    def reopen(self, killed: bool) -> None:
        """The window is closed, or its process killed; another one opens the project."""
        project, before, plane = self.project, self.session, self.plane
        assert project is not None
        if killed:
            kill(project)
            self.plugin.store.project = None
            self.plugin.disconnect()
        else:
            self.look()
            self.viewer.layers.clear()  # as napari does before it closes a window
            mode = before.mode
            assert self.plugin.close()
            before.mode = mode
        self.window()
        if before.project is None:
            recovery = next(r for r in self.session.recoveries if r.folder == project.folder)
            self.plugin.restore.recover(recovery)
        else:
            self.plugin.restore.open(project.folder)
        assert self.session.message.text.endswith("is open with all its annotations.")
        for name in ("structures", "mode", "settings"):
            assert getattr(self.session, name) == getattr(before, name), name
        assert self.session.entry.model.id == before.entry.model.id
        assert [e.model.id for e in self.session.history] == [e.model.id for e in before.history]
        assert killed or self.plane == plane
        self.strokes, self.before = self.session.source().labels, None
        self.oracle.reopen()
        assert (self.plugin.masks.current is not None) == self.oracle.alive

    # -- what must always hold ------------------------------------------------------------------

    def same_corrections(self, found: np.ndarray | None, wanted: np.ndarray) -> None:
        if found is None:
            assert not wanted.any()
        else:
            np.testing.assert_array_equal(found, wanted)

    def same_truth(self, truth: ImageAnnotations, strokes: np.ndarray) -> None:
        """All that was said; ``strokes`` are those whose hand is lifted."""
        oracle, all_of_it = self.oracle, whole(self.oracle.shape)
        same = np.testing.assert_array_equal
        for origin, wanted in (
            (LabelSource.STROKES, strokes),
            (LabelSource.CORRECTIONS, oracle.corrections.values),
            (LabelSource.ACCEPTED, oracle.accepted.values),
            (LabelSource.OBJECTS, oracle.objects.values),
        ):
            same(truth.read(origin, all_of_it), wanted, str(origin))
        same(truth.effective_overrides(all_of_it), oracle.winning(), "the newest wins")
        same(truth.effective_objects(all_of_it), oracle.finished(), "finished objects")

    def is_open(self) -> bool:
        return hasattr(self, "oracle")

    @precondition(is_open)
    @invariant()
    def nothing_changed_unasked(self) -> None:
        oracle = self.oracle
        same = partial(np.testing.assert_array_equal, strict=False)
        same(self.strokes.data, oracle.strokes.values, "annotation layer")
        self.same_truth(self.plugin.annotations.of(self.image), oracle.strokes.values)
        pair = take_snapshots(self.session.sources, self.plugin.annotations.by_image)[0].pair()
        same(pair.labels, oracle.strokes.values, "labels to train on")
        self.same_corrections(pair.corrections, oracle.winning())
        self.same_corrections(pair.objects, oracle.finished())
        assert len(self.strokes._undo_history) == len(oracle.strokes_past)

    @precondition(has_mask)
    @invariant()
    def the_mask_is_the_network_s_with_what_was_said(self) -> None:
        shown = np.where(self.mask.data == 255, 0, self.mask.data)
        np.testing.assert_array_equal(shown, self.oracle.shown())
        np.testing.assert_array_equal(said_of(shown), said_of(self.oracle.shown()))

    @precondition(has_objects)
    @invariant()
    def finished_objects_are_on_screen_with_their_numbers(self) -> None:
        finished, shown = self.oracle.finished(), self.object_layer.data
        np.testing.assert_array_equal(shown[finished > 0], finished[finished > 0])
        for plane in self.oracle.planes():
            others = shown[plane][finished[plane] == 0]
            assert not np.isin(others, finished[plane][finished[plane] > 0]).any()

    @precondition(is_open)
    @invariant()
    def what_can_be_brought_back_is_known(self) -> None:
        assert self.plugin.models.before is self.before

    @precondition(is_open)
    @invariant()
    def the_session_can_undo_what_the_oracle_can(self) -> None:
        assert bool(self.session.undoable) == bool(self.oracle.steps)
        assert bool(self.session.redoable) == bool(self.oracle.undone)


TestHands = Hands.TestCase
TestHands.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
