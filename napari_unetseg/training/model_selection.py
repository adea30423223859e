"""Selection of the shown weights: the newest averages, refitted to newer strokes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from napari_unetseg.runtime.devices import release_memory
from napari_unetseg.runtime.memory_errors import is_out_of_memory
from napari_unetseg.training.head_refit import HeadRefit

if TYPE_CHECKING:
    from napari_unetseg.data.validation_split import VoxelIndices
    from napari_unetseg.training.trainer import Trainer

SHOW_SECONDS = 2.0
"""Least seconds between two models that are shown, but for answers to strokes."""
MAX_TIME_FRACTION = 0.02
"""Largest fraction of the training's time for copies of shown weights."""


class StoppedError(Exception):
    """The job was stopped during a refit or the fit of the initial model."""


class ModelSelection:
    """When the newest weights are shown, and how they are changed by newer strokes at once.

    Parameters
    ----------
    trainer
        Of the training.
    interrupt
        Called between pieces of work; raises `StoppedError` after a stop.
    """

    def __init__(self, trainer: Trainer, interrupt: Callable[[], object]) -> None:
        self._trainer, self._interrupt = trainer, interrupt
        self._refits, self._next = 0, 0.0

    def due(self, seconds: float) -> bool:
        """Whether to show the newest weights after so many seconds of training."""
        return seconds >= self._next

    def shown(self, seconds: float, cost: float) -> None:
        """Weights were shown, whose copy took ``cost`` seconds."""
        self._next = seconds + max(SHOW_SECONDS, cost / MAX_TIME_FRACTION)

    def answer(self, newer: VoxelIndices) -> bool:
        """Refit the last layer to newer strokes that the shown mask has wrong; False: none are.

        Without memory for it, or after a stop, nothing changes.
        """
        if not newer:
            return False
        self._trainer.focus_on(newer)
        self._refits += 1
        try:
            refit = HeadRefit(self._trainer, newer, self._refits, self._interrupt)
            rows = refit.solve()
        except StoppedError:
            return False
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            release_memory(self._trainer.device)
            return False
        if rows is not None:
            refit.apply(rows)
        return rows is not None
