"""Many edits of objects one after another: ids that none of them touched stay, also on disk."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_unetseg.annotations.annotation_store import ImageAnnotations, LabelSource
from napari_unetseg.annotations.object_edits import (
    ObjectEdit,
    accept,
    delete,
    finish,
    merge,
    split,
)
from napari_unetseg.annotations.sparse_array import Region, whole
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import BACKGROUND_LABEL
from napari_unetseg.io.project.project import Project

SHAPE = (24, 28)
PAIR = (LabelSource.CORRECTIONS, LabelSource.OBJECTS)
KEY = "image-1"
IMAGES = {"images": {KEY: {"shape": list(SHAPE), "dtype": "uint8", "kind": "strokes"}}}

spots = st.tuples(st.integers(-1, SHAPE[0]), st.integers(-1, SHAPE[1]))
paths = st.lists(spots, min_size=1, max_size=4).map(np.array)
acts = st.sampled_from([merge, split, delete, accept, finish])


def cells() -> np.ndarray:
    """Twenty boxes in rows, numbered from 1 on; neighbours of a row touch."""
    ids = np.zeros(SHAPE, np.uint32)
    for number, (y, x) in enumerate(np.ndindex(4, 5), 1):
        ids[6 * y + 1 : 6 * y + 5, 5 * x + 1 : 5 * x + 6] = number
    return ids


class Bench:
    """Annotations in a project, whose objects are all finished at first."""

    def __init__(self, folder: Path) -> None:
        self.project, self.truth = Project.create(folder), ImageAnnotations(SHAPE)
        self.project.add(KEY, self.truth, IMAGES)
        ids = cells()
        self.apply(ObjectEdit(whole(SHAPE), ids, ids > 0))

    @property
    def ids(self) -> np.ndarray:
        return self.truth.effective_objects(whole(SHAPE))

    def state(self, region: Region) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(self.truth.read(o, region), self.truth.times(o, region)) for o in PAIR]

    def apply(self, edit: ObjectEdit) -> None:
        said = np.where(edit.ids > 0, 1, BACKGROUND_LABEL)
        for origin, values in zip(PAIR, (said, edit.ids), strict=True):
            change = self.truth.restamp(origin, edit.region, edit.changed, values)
            if change is not None:
                self.project.record(KEY, change)

    def put_back(self, region: Region, now: list, then: list) -> None:  # type: ignore[type-arg]
        for origin, one, other in zip(PAIR, now, then, strict=True):
            change = self.truth.put_back(origin, region, one, other)
            if change is not None:
                self.project.record(KEY, change)

    def on_disk(self) -> np.ndarray:
        (truth,) = Project.read(self.project.folder).by_image.values()
        return truth.effective_objects(whole(SHAPE))


def edit_of(act: object, ids: np.ndarray, path: np.ndarray, new: int) -> ObjectEdit | None:
    """An edit of a kind; None where the stroke misses."""
    try:
        if act is split:
            return split(ids, path, new)
        if act is finish:
            drawn = np.zeros(SHAPE, bool)
            low, high = path.min(0).clip(0), path.max(0).clip(0)
            drawn[low[0] : high[0] + 1, low[1] : high[1] + 1] = True
            return finish(ids, drawn, new)
        if act is merge:
            return merge(ids, path)
        return (delete if act is delete else accept)(ids, path[-1])
    except UserError:
        return None


@settings(max_examples=40)  # each writes a project
@given(todo=st.lists(st.tuples(acts, paths), min_size=1, max_size=8), back=st.integers(0, 8))
def test_no_edit_nor_undo_nor_project_changes_an_object_beside_it(
    todo: list[tuple[object, np.ndarray]], back: int
) -> None:
    with TemporaryDirectory() as folder:
        bench, done = Bench(Path(folder) / "p"), []
        for act, path in todo:
            before, new = bench.ids, bench.truth.next_object
            edit = edit_of(act, before, path, new)
            if edit is None:
                continue
            then = bench.state(edit.region)
            bench.apply(edit)
            done.append((before, edit.region, then, bench.state(edit.region)))
            touched = np.zeros(SHAPE, bool)
            touched[edit.region] = edit.changed
            np.testing.assert_array_equal(bench.ids[~touched], before[~touched])
            beside = set(np.unique(before)) - set(np.unique(before[touched]))
            for number in beside - {0}:
                assert np.array_equal(bench.ids == number, before == number)
            assert bench.truth.next_object >= new
        np.testing.assert_array_equal(bench.on_disk(), bench.ids)
        for before, region, then, now in reversed(done[max(0, len(done) - back) :]):
            bench.put_back(region, now, then)
            np.testing.assert_array_equal(bench.ids, before)
        np.testing.assert_array_equal(bench.on_disk(), bench.ids)
        bench.project.close()


@settings(max_examples=8)
@given(row=st.integers(0, 3), column=st.integers(0, 3))
def test_a_split_of_a_merge_has_two_objects_again_and_the_rest_as_it_was(
    row: int, column: int
) -> None:
    ids = cells()
    one = 5 * row + column + 1
    pair, y, x = (one, one + 1), 6 * row + 2, 5 * column
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "p")
        bench.apply(merge(bench.ids, np.array([[y, x + 2], [y, x + 8]])))
        assert bench.truth.object_numbers().size == 19
        bench.apply(split(bench.ids, np.array([[y - 3, x + 5], [y + 5, x + 5]]), 99))
        now, rest = bench.ids, ~np.isin(ids, pair)
        np.testing.assert_array_equal(now[rest], ids[rest])
        assert len(np.unique(now[~rest])) == 2
        assert 99 in now
        assert bench.truth.next_object == 100
        np.testing.assert_array_equal(bench.on_disk(), now)
        bench.project.close()
