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
    """Write a page about a project: labels, quality, curves, overlays, settings, provenance."""
    from napari_unetseg.inference.quality_table import quality_lines
    from napari_unetseg.report.project_report import report_events

    with Meter("Predicting labelled planes") as meter:
        page, facts = finish(report_events(project, output), meter.show)
    tell(f"Report of {count(len(facts.images), 'image')} written to {page}.")
    names = {structure.number: structure.name for structure in facts.structures}
    for one in facts.quality:
        for line in quality_lines(one, names):
            tell(f"{one.name}, {line}")
