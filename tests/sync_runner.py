"""A runner for tests: everything is done at once, in the calling thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_unetseg.core.events import finish

if TYPE_CHECKING:
    from napari_unetseg.gui.services.job_runner import Job, OnDone, OnError, Query


class SyncRunner:
    """Runs everything at once in the calling thread."""

    def __init__(self) -> None:
        self.busy = False

    def start(self, job: Job) -> None:
        """Run a job to its end; callbacks are called on the way."""
        self.busy = True
        try:
            result = finish(job.work(job.control), job.on_event)
        except Exception as error:  # noqa: BLE001 - as in a thread
            self.busy = False
            job.on_error(error)
        else:
            self.busy = False
            job.on_done(result)

    def query(
        self,
        query: Query,
        on_result: OnDone,
        on_error: OnError | None = None,
        *,
        about: str = "",
    ) -> None:
        """Answer at once; without ``on_error`` an error is the caller's."""
        try:
            answer = query()
        except Exception as error:
            if on_error is None:
                raise
            on_error(error)
        else:
            on_result(answer)

    def background(self, task: Query, on_done: OnDone, on_error: OnError) -> None:
        """Run a task at once."""
        self.query(task, on_done, on_error)

    def pump(self) -> None:
        """Nothing ever waits."""

    def close(self, seconds: float = 10.0) -> bool:
        """Nothing ever runs."""
        return True
