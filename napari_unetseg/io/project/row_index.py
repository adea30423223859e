"""Index of a project's label rows by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.annotations.annotation_store import (
    AnnotationChange,
    ImageAnnotations,
    LabelSource,
)
from napari_unetseg.annotations.sparse_array import Cell, cells
from napari_unetseg.io.project.label_rows import FAST, Columns, columns_of

if TYPE_CHECKING:
    from napari_unetseg.annotations.sparse_array import Region

Place = tuple[str, LabelSource, Cell]
"""A chunk of an image's strokes, corrections or accepted regions."""


@dataclass(eq=False)
class RowIndex:
    """Ids of rows; the project's lock is held."""

    next_id: int = 1
    """Of the next row."""
    joined: dict[Place, int] = field(default_factory=dict)
    """Rows that hold all of a chunk."""
    changes: list[int] = field(default_factory=list)
    """The other rows."""
    dirty: set[Place] = field(default_factory=set)
    """The chunks that these touch, and those of which something is in memory alone."""
    began: dict[str, int] = field(default_factory=dict)
    """The first row that counts of each image whose labels began anew."""

    def new_id(self) -> int:
        """The id of a row that is newer than all others."""
        self.next_id += 1
        return self.next_id - 1

    def number(self, places: Iterable[Place]) -> dict[Place, int]:
        """New ids for chunks."""
        return {place: self.new_id() for place in places}

    def read(
        self, number: int, key: str, change: AnnotationChange, annotated: ImageAnnotations
    ) -> None:
        """A row was read from the database."""
        self.next_id = number + 1
        places = list(places_in(key, change.origin, change.region))
        whole = annotated.grid(change.origin).region_of(places[0][2])
        if change.region == whole and (change.stamps is not None or change.stamp == 0):
            number, self.joined[places[0]] = self.joined.get(places[0], 0), number
        if number:
            self.changes.append(number)
            self.dirty.update(places)

    def known(self, key: str) -> set[Place]:
        """The chunks of an image that rows may hold."""
        return {place for place in (*self.joined, *self.dirty) if place[0] == key}

    def begin(self, key: str, joined: dict[Place, int]) -> None:
        """The rows of an image are these and no others."""
        self.dirty -= self.known(key)
        self.began[key] = self.new_id()
        self.joined = {place: n for place, n in self.joined.items() if place[0] != key} | joined

    def outdated(self, numbers: Mapping[Place, int]) -> list[Place]:
        """Chunks of images that began anew since these ids were given."""
        return [place for place in numbers if numbers[place] < self.began.get(place[0], 0)]


def places_in(key: str, origin: LabelSource, region: Region) -> Iterator[Place]:
    """The chunks that a region touches."""
    return ((key, origin, cell) for cell in cells(region))


def places_of(by_image: Mapping[str, ImageAnnotations]) -> Iterator[Place]:
    """The chunks of images that hold anything."""
    for key, annotated in by_image.items():
        for origin in LabelSource:
            for cell in {*annotated.grid(origin).cells(), *annotated.stamps(origin).cells()}:
                yield key, origin, cell


def joined_row(
    by_image: Mapping[str, ImageAnnotations], place: Place, number: int, codec: Any = FAST
) -> Columns | None:
    """All that a chunk holds as a row; None if it holds nothing."""
    key, origin, cell = place
    annotated = by_image[key]
    grid = annotated.grid(origin)
    ((_, values, stamps),) = annotated.chunks(origin, [cell])
    if values is None and stamps is None:
        return None
    region = grid.region_of(cell)
    if values is None:
        values = np.zeros([s.stop - s.start for s in region], grid.dtype)
    newest = 0 if stamps is None else int(stamps.max())
    change = AnnotationChange(origin, region, values, newest, stamps)
    return columns_of(number, key, change, grid.dtype, codec)
