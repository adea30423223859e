"""Command ``unetseg report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from napari_unetseg.cli.console import Meter, tell
from napari_unetseg.core.events import finish
from napari_unetseg.core.text import count


def report(
    project: Annotated[Path, Argument(metavar="PROJECT", help="The folder of a project.")],
    output: Annotated[
        Path, Option("-o", "--output", metavar="DIR", help="Folder for the page.")
    ] = Path("report"),
) -> None:
    """Write a page about a project: labels, scores, curves, overlays, settings, provenance."""
    from napari_unetseg.report.project_report import report_events

    with Meter("Predicting labelled planes") as meter:
        page, images = finish(report_events(project, output), meter.show)
    tell(f"Report of {count(images, 'image')} written to {page}.")
