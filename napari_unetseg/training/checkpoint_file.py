"""Checkpoint file, from which another process resumes a training."""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from napari_unetseg.core import file_locks
from napari_unetseg.core.errors import TrainingError
from napari_unetseg.models import model_file
from napari_unetseg.runtime.distributed import world

if TYPE_CHECKING:
    from torch import Tensor

    from napari_unetseg.core.file_locks import LockOwner

SUFFIX = ".checkpoint"
RANDOM = "[a-z0-9_]" * 8
"""Random part of the temporary file names of `atomic_path`."""
POLL_SECONDS = 0.5


class CheckpointFile:
    """The file of a resumable training.

    While it is open as a context no other process can train with it::

        with CheckpointFile("cells.checkpoint") as checkpoint:
            model = train(pairs, settings, checkpoint=checkpoint)
            model.save("cells.safetensors")
            checkpoint.remove()

    A state is written every 30 seconds (less often where that would take more than 1 % of the
    time), and when a `JobControl` stops the training. It is a safetensors file: nothing in it is
    run. Under torchrun the main process reads and writes it.

    Parameters
    ----------
    path
        The file; its folder is made where it does not exist.
    resume
        Resume from the state in the file, if any; False overwrites it.

    Attributes
    ----------
    steps
        Steps done in the stored state; None without a state of this training.
    """

    def __init__(self, path: str | Path, *, resume: bool = True) -> None:
        self.path, self.resume = Path(path), resume
        self.steps: int | None = None
        self._lock = file_locks.OutputLock(self.path.with_name(f".{self.path.name}.lock"))

    def __enter__(self) -> Self:
        """Lock the file.

        Raises
        ------
        TrainingError
            Another process trains with it.
        """
        if world().rank:
            return self
        try:
            owner = self._take()
        except OSError:
            return self  # `write` reports a folder that cannot be written
        if owner is not None:
            raise TrainingError(
                f"Another process is training with {self.path} ({owner}); wait until it ends, "
                "or choose another name for this model."
            )
        name = f".{glob.escape(self.path.stem[:40])}-{RANDOM}{SUFFIX}"
        for left in self.path.parent.glob(name) if self.path.suffix == SUFFIX else ():
            with suppress(OSError):
                left.unlink()  # a partial file of a process that was killed
        return self

    def _take(self) -> LockOwner | None:
        """Take the lock; wait until a lock of another computer is known to be stale."""
        end = time.monotonic() + file_locks.STALE_SECONDS + file_locks.TOUCH_SECONDS
        while (owner := self._lock.take()) is not None:
            if owner.is_here or time.monotonic() > end:
                return owner
            time.sleep(POLL_SECONDS)
        return None

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def read(
        self,
    ) -> tuple[dict[str, Any], Callable[[model_file.Expected], dict[str, Tensor]]] | None:
        """What `model_file.read` returns, None without a state to resume.

        Raises
        ------
        ModelFileError
            The file is damaged, or of another version.
        """
        there = self.resume and self.path.exists()
        return model_file.read(self.path, model_file.CHECKPOINT) if there else None

    def damaged(self) -> TrainingError:
        """The error for an unusable file."""
        return TrainingError(
            f"Training cannot be resumed from {self.path}: it is damaged, unreadable, or not a "
            "checkpoint of this version; rename it, or start anew with --no-resume."
        )

    def write(self, weights: Mapping[str, Tensor], state: Mapping[str, Any], steps: int) -> None:
        """Write a state atomically.

        Raises
        ------
        UserError
            The disk is full or the folder cannot be written; the earlier state is unchanged.
        """
        model_file.write(self.path, weights, state, model_file.CHECKPOINT)
        self.steps = steps

    def remove(self) -> None:
        """Remove the file, once the model is saved."""
        self.steps = None
        with suppress(OSError):
            self.path.unlink()
