"""Choice of the computer that runs a task."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_unetseg.core.events import Event
    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.jobs.tasks import Task


@dataclass(frozen=True, slots=True, eq=False)
class RunOn:
    """A task on the worker at an address, or local where it is empty."""

    task: Task
    """The task."""
    address: str
    """Of ``unetseg worker``, such as ``127.0.0.1:8786``."""
    key_file: Path | None = None
    """As in `worker_key.key_for`."""

    def __call__(self, control: JobControl) -> Generator[Event, None, Any]:
        """Yield the events of the task; return what it returns."""
        if not self.address:
            return (yield from self.task(control))
        from napari_unetseg.jobs.remote.client import run

        return (yield from run(self.task, self.address, control, self.key_file))
