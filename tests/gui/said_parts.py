"""What an annotation layer, corrections, accepted regions and a mask must be: plain dense arrays.

Knows nothing of sparse grids, layers or steps of the program: every voxel has a value and a time,
and what may be undone is a list of past states.

An undo or redo of what was painted is the newest word: it is a change like any other, and wins over
all that was said before it. The plugin's own undo takes back one step of the plugin, with the times
that it gave, where nothing newer was said since.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

BRUSH = 255
Spot = tuple[Any, ...]
"""An index of the grid: a plane, or a rectangle of one."""


def said_of(mask: np.ndarray) -> np.ndarray:
    """A mask as corrections hold it: background is 255."""
    return np.where(mask == 0, BRUSH, mask).astype(np.uint8)


def mask_of(said: np.ndarray) -> np.ndarray:
    return np.where(said == BRUSH, 0, said).astype(np.uint8)


@dataclass(eq=False)
class Words:
    """Values and the times at which they were said."""

    values: np.ndarray
    times: np.ndarray

    @classmethod
    def none(cls, shape: tuple[int, ...], dtype: Any = np.uint8) -> Words:
        return cls(np.zeros(shape, dtype), np.zeros(shape, np.int64))

    def copy(self) -> Words:
        return Words(self.values.copy(), self.times.copy())

    def same(self, other: Words, spot: Spot) -> bool:
        return bool(
            (self.values[spot] == other.values[spot]).all()
            and (self.times[spot] == other.times[spot]).all()
        )


@dataclass(eq=False)
class PluginStep:
    """One undo step of the program's own: where, and what was said before and after."""

    spots: list[tuple[str, Spot, Words, Words]]
    numbers: tuple[dict[str, dict[int, int]], dict[str, dict[int, int]]] | None = None
    """What numbers of models became, before and after."""


@dataclass(eq=False)
class Oracle:
    """One image."""

    shape: tuple[int, ...]
    now: int = 0
    alive: bool = False
    model: str | None = None
    strokes_past: list[np.ndarray] = field(default_factory=list)
    strokes_future: list[np.ndarray] = field(default_factory=list)
    mask_past: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    mask_future: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    steps: list[PluginStep] = field(default_factory=list)
    undone: list[PluginStep] = field(default_factory=list)
    earlier: tuple[Any, ...] | None = None
    numbers: dict[str, dict[int, int]] = field(default_factory=dict)
    """For each model there is, what its numbers became: 255 for background."""

    def __post_init__(self) -> None:
        self.strokes, self.corrections, self.accepted = (Words.none(self.shape) for _ in range(3))
        self.objects = Words.none(self.shape, np.uint32)
        self.fresh_layer()

    def fresh_layer(self) -> None:
        """A new prediction layer over nothing but what was said."""
        self.network = np.zeros(self.shape, np.uint8)
        self.covered, self.fresh = np.zeros(self.shape, bool), np.zeros(self.shape, bool)
        self.replaced: set[tuple[int, ...]] = set()
        self.earlier = None
        self.data = self.shown()
        self.base, self.base_said = self.data.copy(), self.corrections.values.copy()

    def tick(self) -> int:
        self.now += 1
        return self.now

    # -- what must be --------------------------------------------------------------------------

    def over(self) -> tuple[np.ndarray, np.ndarray]:
        """What people said of the mask, the newer of both, and when."""
        values, times = self.corrections.values.copy(), self.corrections.times.copy()
        times[values == 0] = 0
        newer = (self.accepted.values != 0) & (self.accepted.times > times)
        values[newer], times[newer] = self.accepted.values[newer], self.accepted.times[newer]
        return values, times

    def shown(self) -> np.ndarray:
        over, _ = self.over()
        return np.where(over != 0, mask_of(over), self.renumbered())

    def renumbered(self) -> np.ndarray:
        """The network's mask in the numbers of today."""
        mask = self.network.copy()
        for number, other in self.numbers.get(self.model or "", {}).items():
            mask[self.network == number] = other % BRUSH
        return mask

    def winning(self) -> np.ndarray:
        values, times = self.over()
        values[(self.strokes.values != 0) & (self.strokes.times > times)] = 0
        return values

    def finished(self) -> np.ndarray:
        """Finished objects where nothing newer says otherwise."""
        ids, times = self.objects.values.copy(), self.objects.times
        said = self.corrections.values
        gone = self.corrections.times > times
        for other in (self.strokes, self.accepted):
            gone |= (other.times > times) & (other.values != 0) & (other.values != said)
        ids[gone] = 0
        return ids

    # -- strokes -------------------------------------------------------------------------------

    def stroke(self, data: np.ndarray) -> None:
        if (data == self.strokes.values).all():
            return
        self.strokes_past.append(self.strokes.values.copy())
        self.strokes_future.clear()
        self._painted(data)

    def _painted(self, data: np.ndarray) -> None:
        """The annotation layer holds these values now; what differs is the newest word."""
        touched = data != self.strokes.values
        self.strokes.values[touched] = data[touched]
        self.strokes.times[touched] = self.tick()

    def undo_stroke(self) -> None:
        if self.strokes_past:
            self.strokes_future.append(self.strokes.values.copy())
            self._painted(self.strokes_past.pop())

    def redo_stroke(self) -> None:
        if self.strokes_future:
            self.strokes_past.append(self.strokes.values.copy())
            self._painted(self.strokes_future.pop())

    # -- corrections ---------------------------------------------------------------------------

    def paint_mask(self, data: np.ndarray) -> None:
        """The mask was painted on; what differs from what was written is a correction."""
        if (data == self.data).all():
            return
        self.mask_past.append((self.data.copy(), data.copy()))
        self._now_shows(data)
        self.mask_future.clear()

    def undo_mask(self) -> None:
        if self.mask_past:
            data, after = self.mask_past.pop()
            self.mask_future.append((after, data))
            self._back(data, after)

    def redo_mask(self) -> None:
        if self.mask_future:
            data, after = self.mask_future.pop()
            self.mask_past.append((after, data))
            self._back(data, after)

    def _back(self, data: np.ndarray, after: np.ndarray) -> None:
        touched = data != after
        assert (self.data[touched] == after[touched]).all(), "undo crosses something else"
        self._now_shows(np.where(touched, data, self.data))

    def _now_shows(self, data: np.ndarray) -> None:
        """The mask's layer holds these values now; corrections that differ are the newest word."""
        said = np.where(data != self.base, said_of(data), self.base_said)
        new = said != self.corrections.values
        self.corrections.values[new] = said[new]
        self.corrections.times[new] = self.tick()
        inside = new & (self.accepted.values != 0)
        self.accepted.values[inside] = said_of(data)[inside]
        self.data = data.copy()

    def forget_history(self) -> None:
        self.mask_past.clear()
        self.mask_future.clear()

    def written(self, spot: Spot) -> None:
        """The program has written a part of the layer."""
        self.data[spot] = self.shown()[spot]
        self.base[spot], self.base_said[spot] = self.data[spot], self.corrections.values[spot]

    # -- masks ---------------------------------------------------------------------------------

    def begin(self, model: str) -> None:
        self.numbers.setdefault(model, {})
        if model != self.model:  # older masks keep the numbers that they have by now
            self.fresh[:] = False
            self.network = self.renumbered()
        if not self.alive:
            self.forget_history()
            self.fresh_layer()
        self.alive, self.model = True, model

    def tile(self, spot: Spot, mask: np.ndarray) -> None:
        """A tile of the model that began last; its plane is what an index begins with."""
        self.replaced.add(self.plane_of(spot))
        self.network[spot] = mask
        self.covered[spot] = self.fresh[spot] = True
        self.written(spot)

    def plane_of(self, spot: Spot) -> tuple[int, ...]:
        return tuple(spot[: len(self.shape) - 2])

    def planes(self) -> list[tuple[int, ...]]:
        return list(np.ndindex(*self.shape[:-2]))

    def finish(self) -> None:
        for plane in self.planes():
            old = self.covered[plane] & ~self.fresh[plane]
            if old.any():
                self.replaced.add(plane)
                self.network[plane][old] = 0
                self.covered[plane] = self.fresh[plane]
                self.written(plane)

    def is_fresh(self, plane: tuple[int, ...], model: str) -> bool:
        return model == self.model and bool(self.fresh[plane].all())

    def _state(self) -> tuple[Any, ...]:
        return self.model, self.network.copy(), self.covered.copy(), self.fresh.copy()

    def mark(self) -> None:
        self.earlier, self.replaced = self._state(), set()

    def bring_back(self) -> None:
        if not self.alive or self.earlier is None or self.earlier[0] in (None, self.model):
            return
        state, planes = self.earlier, self.replaced
        self.earlier = self._state()
        self.model, self.network, self.covered, self.fresh = (
            state[0],
            *(a.copy() for a in state[1:]),
        )
        for plane in self.planes():
            if plane in planes or (mask_of(self.data[plane]) != self.shown()[plane]).any():
                self.written(plane)

    # -- what people say -----------------------------------------------------------------------

    def accept(self, places: list[tuple[Spot, np.ndarray]]) -> None:
        self._step("accepted", places, self._accept)

    def _accept(self, spot: Spot, where: np.ndarray) -> None:
        words, new = self.accepted, said_of(self.data[spot])
        again = where & (self.strokes.times[spot] > words.times[spot])
        again |= where & (words.values[spot] != new)
        words.values[spot] = np.where(where, new, words.values[spot])
        words.times[spot] = np.where(again, self.tick(), words.times[spot])

    def take_back(self, places: list[tuple[Spot, np.ndarray]]) -> None:
        self._step("accepted", places, self._withdraw)

    def _withdraw(self, spot: Spot, where: np.ndarray) -> None:
        self._empty(self.accepted, spot, where)
        self._show_accepted(spot)

    def forget(self, places: list[tuple[Spot, np.ndarray]]) -> None:
        self._step("corrections", places, self._forget)

    def _forget(self, spot: Spot, where: np.ndarray) -> None:
        self._empty(self.corrections, spot, where)
        self.written(spot)

    def edit_objects(
        self, spot: Spot, where: np.ndarray, ids: np.ndarray, said: np.ndarray
    ) -> None:
        """Objects of some voxels and their structures, both the newest word, in one step."""
        spots = []
        for origin, values in (("corrections", said), ("objects", ids)):
            words: Words = getattr(self, origin)
            before = words.copy()
            words.values[spot] = np.where(where, values, words.values[spot])
            words.times[spot] = np.where(where, self.tick(), words.times[spot])
            spots.append((origin, spot, before, words.copy()))
        self.written(spot)
        self._done(PluginStep(spots))

    def _empty(self, words: Words, spot: Spot, where: np.ndarray) -> None:
        gone = where & (words.values[spot] != 0)
        words.times[spot] = np.where(gone, self.tick(), words.times[spot])
        words.values[spot] = np.where(gone, 0, words.values[spot])

    def _show_accepted(self, spot: Spot) -> None:
        if (mask_of(self.data[spot]) != self.shown()[spot]).any():
            self.written(spot)

    def _step(self, origin: str, places: list[tuple[Spot, np.ndarray]], act: Any) -> None:
        spots = []
        for spot, where in places:
            before = getattr(self, origin).copy()
            act(spot, where)
            if not before.same(getattr(self, origin), spot):
                spots.append((origin, spot, before, getattr(self, origin).copy()))
        if spots:
            self._done(PluginStep(spots))

    def _done(self, step: PluginStep) -> None:
        self.steps.append(step)
        self.undone.clear()

    def undo_step(self) -> None:
        if self.steps:
            step = self.steps.pop()
            self.undone.append(step)
            for origin, spot, before, after in reversed(step.spots):
                self._put_back(origin, spot, after, before)
            if step.numbers is not None:
                self._renumber(step.numbers[0])

    def redo_step(self) -> None:
        if self.undone:
            step = self.undone.pop()
            self.steps.append(step)
            for origin, spot, before, after in step.spots:
                self._put_back(origin, spot, before, after)
            if step.numbers is not None:
                self._renumber(step.numbers[1])

    def _put_back(self, origin: str, spot: Spot, now: Words, then: Words) -> None:
        """Where the step changed something, and nothing else was said since, have it as before.

        An acceptance is withdrawn also where it was corrected since.
        """
        words: Words = getattr(self, origin)
        changed = (now.values[spot] != then.values[spot]) | (now.times[spot] != then.times[spot])
        back = words.values[spot] == now.values[spot]
        if origin == "accepted":
            back |= then.values[spot] == 0
        back &= (words.times[spot] == now.times[spot]) & changed
        words.values[spot] = np.where(back, then.values[spot], words.values[spot])
        words.times[spot] = np.where(back, then.times[spot], words.times[spot])
        if origin == "strokes":
            self.strokes_past.clear()
            self.strokes_future.clear()
        elif origin == "accepted":
            self._show_accepted(spot)
        elif origin == "corrections":
            self.written(spot)

    # -- structures ----------------------------------------------------------------------------

    def merge(self, number: int, into: int) -> None:
        """One number becomes another everywhere: 255 is background, 0 is nothing at all."""
        spots = []
        if into in (0, BRUSH):
            for plane in self.planes():
                before, after = self.objects.copy(), self.objects.copy()
                after.values[plane][self.corrections.values[plane] == number] = 0
                if not before.same(after, plane):
                    spots.append(("objects", plane, before, after))
                    self._put_back("objects", plane, before, after)
        for origin in ("strokes", "corrections", "accepted"):
            words: Words = getattr(self, origin)
            for plane in self.planes():
                before, after = words.copy(), words.copy()
                after.values[plane][before.values[plane] == number] = into
                if not before.same(after, plane):
                    spots.append((origin, plane, before, after))
                    self._put_back(origin, plane, before, after)
                    words = getattr(self, origin)
        as_network = into or BRUSH
        numbers = {
            model: {n: as_network if o == number else o for n, o in known.items()}
            | {number: as_network}
            for model, known in self.numbers.items()
        }
        self._done(PluginStep(spots, (self.numbers, numbers)))
        self._renumber(numbers)

    def _renumber(self, numbers: dict[str, dict[int, int]]) -> None:
        """Models that came since keep the numbers that they have."""
        before, self.numbers = self.renumbered(), {**self.numbers, **numbers}
        for plane in self.planes():
            if (before[plane] != self.renumbered()[plane]).any():
                self.written(plane)

    # -- another window ------------------------------------------------------------------------

    def reopen(self) -> None:
        """What was said is there again, and nothing that could be undone; masks are not kept."""
        for past in (self.strokes_past, self.strokes_future, self.steps, self.undone):
            past.clear()
        self.forget_history()
        self.fresh_layer()
        self.alive = bool(self.corrections.values.any() or self.accepted.values.any())
        self.model = "" if self.alive else None
