"""Images of a batch with their progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack


class RowState(StrEnum):
    """The state of an image in a batch."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    KEPT = "there already"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, eq=False)
class BatchRow:
    """An image of a batch: a file, or a layer that is open."""

    name: str
    path: Path
    """The name of its mask: its file, or for a layer a name that stands for one."""
    layer: Any = None
    """The open layer; None for a file that is not open."""
    state: RowState = RowState.WAITING
    seconds: float = 0.0
    voxels: Mapping[int, int] | None = None
    objects: Mapping[int, int] | None = None
    unsure: float | None = None
    notices: tuple[str, ...] = ()
    error: str = ""
    """As in `FileDone`."""
    open_mask: Callable[[], Stack] | None = None
    """Opens its mask; None if there is none."""
    made_by: str = ""
    """The id of the model of the mask, and whether it was predicted at the model's pixel size."""
