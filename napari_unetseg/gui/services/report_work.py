"""Job that writes a project report."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetseg.core.events import ChunkPredicted, Event, with_each
from napari_unetseg.jobs.window_tasks import JobProgress

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.job_control import JobControl


@dataclass(frozen=True, slots=True, eq=False)
class ReportWork:
    """Writes a report page of the open project; ``stacks`` are its images by their keys."""

    project: Path
    output: Path
    title: str
    stacks: Mapping[str, Stack]

    def __call__(self, control: JobControl) -> Generator[Event, None, Path]:
        """Yield progress and notices; return the page."""
        from napari_unetseg.report.project_report import report_events

        yield JobProgress(0.0)
        report = report_events(
            self.project, self.output, title=self.title, stacks=self.stacks, control=control
        )
        page, _ = yield from with_each(report, _as_progress)
        return page


def _as_progress(event: Event) -> tuple[Event]:
    if isinstance(event, ChunkPredicted):
        event = JobProgress(event.done / event.total)
    return (event,)
