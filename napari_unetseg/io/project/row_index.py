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

ChunkKey = tuple[str, LabelSource, Cell]
"""A chunk of one source of an image's labels."""


@dataclass(eq=False)
class RowIndex:
    """Ids of label rows; callers hold the project's lock."""

    next_id: int = 1
    """Id of the next row."""
    joined: dict[ChunkKey, int] = field(default_factory=dict)
    """Rows that hold a complete chunk."""
    changes: list[int] = field(default_factory=list)
    """All other rows."""
    dirty: set[ChunkKey] = field(default_factory=set)
    """Chunks of these rows, and chunks with changes that are only in memory."""
    began: dict[str, int] = field(default_factory=dict)
    """First valid row of each image whose labels were replaced."""

    def new_id(self) -> int:
        """A row id that is newer than all others."""
        self.next_id += 1
        return self.next_id - 1

    def number(self, chunks: Iterable[ChunkKey]) -> dict[ChunkKey, int]:
        """New ids for chunks."""
        return {chunk: self.new_id() for chunk in chunks}

    def read(
        self, number: int, key: str, change: AnnotationChange, annotated: ImageAnnotations
    ) -> None:
        """Add a row that was read from the database."""
        self.next_id = number + 1
        chunks = list(chunks_in(key, change.origin, change.region))
        whole = annotated.grid(change.origin).region_of(chunks[0][2])
        if change.region == whole and (change.stamps is not None or change.stamp == 0):
            number, self.joined[chunks[0]] = self.joined.get(chunks[0], 0), number
        if number:
            self.changes.append(number)
            self.dirty.update(chunks)

    def known(self, key: str) -> set[ChunkKey]:
        """The chunks of an image that may have rows."""
        return {chunk for chunk in (*self.joined, *self.dirty) if chunk[0] == key}

    def begin(self, key: str, joined: dict[ChunkKey, int]) -> None:
        """Replace all rows of an image."""
        self.dirty -= self.known(key)
        self.began[key] = self.new_id()
        self.joined = {chunk: n for chunk, n in self.joined.items() if chunk[0] != key} | joined

    def outdated(self, numbers: Mapping[ChunkKey, int]) -> list[ChunkKey]:
        """Chunks of images that were replaced since these ids were assigned."""
        return [chunk for chunk in numbers if numbers[chunk] < self.began.get(chunk[0], 0)]


def chunks_in(key: str, origin: LabelSource, region: Region) -> Iterator[ChunkKey]:
    """The chunks in a region."""
    return ((key, origin, cell) for cell in cells(region))


def chunks_of(by_image: Mapping[str, ImageAnnotations]) -> Iterator[ChunkKey]:
    """The chunks of images with any content."""
    for key, annotated in by_image.items():
        for origin in LabelSource:
            for cell in {*annotated.grid(origin).cells(), *annotated.stamps(origin).cells()}:
                yield key, origin, cell


def joined_row(
    by_image: Mapping[str, ImageAnnotations], chunk: ChunkKey, number: int, codec: Any = FAST
) -> Columns | None:
    """Encode the complete content of a chunk as a row; None if it is empty."""
    key, origin, cell = chunk
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
