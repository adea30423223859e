"""Terminal output: sentences, tables, progress."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from napari_unetseg.cli.interrupts import write_nowhere
from napari_unetseg.core.events import ChunkPredicted, Event, Notice, OtherSpacing, TilePredicted
from napari_unetseg.core.score_text import agreement_text, score_text, score_word
from napari_unetseg.runtime.distributed import world
from napari_unetseg.training.training_events import (
    EpochDone,
    ModelUpdated,
    StepDone,
    TrainingPrepared,
)

if TYPE_CHECKING:
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.core.object_metrics import ObjectCounts

PLAIN_SECONDS = 5.0
"""Least seconds between progress lines without a terminal."""


class _Beside:
    """Standard error whose closed reader ends no job."""

    def __init__(self) -> None:
        self._stream: Any = getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, ignoring a closed reader."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, ignoring a closed reader."""
        self._attempt(self._stream.flush)

    def _attempt(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError:
            write_nowhere(2)


def _console(*, stderr: bool = False, quiet: bool | None = None) -> Console:
    """A console without markup; under torchrun silent but for rank 0."""
    quiet = world().rank > 0 if quiet is None else quiet
    file = cast("IO[str]", _Beside()) if stderr else None
    return Console(file=file, markup=False, highlight=False, emoji=False, quiet=quiet)


def tell(text: str) -> None:
    """Print a result to standard output, without wrapping."""
    _console().print(text, soft_wrap=True)


def note(text: str) -> None:
    """Print a notice to standard error."""
    _console(stderr=True).print(text, soft_wrap=True)


def complain(text: str) -> None:
    """Print an error, in any process."""
    here = world()
    who = f"unetseg (process {here.rank})" if here.size > 1 else "unetseg"
    _console(stderr=True, quiet=False).print(f"{who}: {text}", soft_wrap=True)


class Meter:
    """A progress bar on standard error; without a terminal a line now and then."""

    def __init__(self, title: str) -> None:
        console = _console(stderr=True)
        self._live = console.is_terminal
        self._last = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=console,
            transient=True,
            disable=not self._live,
        )
        self._task: TaskID = self._progress.add_task(title, total=1.0, text="")
        self._title = title
        self._scores = ""
        self._same_sizes: dict[str, int] = {}

    def __enter__(self) -> Meter:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        for sizes, more in self._same_sizes.items():
            if more:
                note(f"The same holds for {more} more (sizes: {sizes}).")

    def rename(self, title: str) -> None:
        """Restart under another title."""
        self._title = title
        self._progress.reset(self._task, description=title, total=1.0, text="")

    def show(self, event: Event) -> None:
        """Show an event of training or prediction."""
        if isinstance(event, OtherSpacing):
            self._say_once(event)
        elif isinstance(event, Notice):
            self.line(event.text)
        elif isinstance(event, TrainingPrepared):
            self.line(_plan(event))
            for choice in event.choices:
                self.line(f"  {choice.name}: {choice.value} ({choice.reason})")
        elif isinstance(event, ModelUpdated):
            self._first_answer(event)
        elif isinstance(event, StepDone):
            self._step(event)
        elif isinstance(event, EpochDone):
            self._scores = f"loss {event.train_loss:.3f}"
            if event.scores is not None:
                self._scores += f"  {_score(event.scores)}" + "  best" * event.best
            self._now_and_then(f"epoch {event.epoch}, step {event.step}: {self._scores}")
        elif isinstance(event, TilePredicted):
            self._move(event.done / event.total, f"{event.done} of {event.total} tiles")
        elif isinstance(event, ChunkPredicted):
            self._move(event.done / event.total, f"{event.done} of {event.total} chunks")

    def _say_once(self, event: OtherSpacing) -> None:
        """Show a notice on voxel sizes once for many images."""
        if event.sizes in self._same_sizes:
            self._same_sizes[event.sizes] += 1
        else:
            self._same_sizes[event.sizes] = 0
            self.line(f"{event.text} {event.offer}".rstrip())

    def _first_answer(self, event: ModelUpdated) -> None:
        """Show the initial model's score, which is no epoch's."""
        if event.scores is not None and not event.step and not event.model.history[-1].curve:
            self.line(f"initial model, step 0: {_score(event.scores)}")

    def _step(self, event: StepDone) -> None:
        left = event.remaining
        done = event.seconds / (event.seconds + left) if left is not None and left > 0 else 1.0
        if event.steps:
            done = event.step / event.steps
        rest = "" if left is None else f"  {_duration(left)} left"
        self._move(
            done,
            f"step {event.step}{f' of {event.steps}' if event.steps else ''}{rest}  {self._scores}",
        )

    def _move(self, done: float, text: str) -> None:
        self._progress.update(self._task, completed=done, text=text)
        if done < 1.0 and not self._scores:
            self._now_and_then(f"{self._title}: {text}")

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        if self._live:
            self._progress.console.print(text, soft_wrap=True)
        else:
            note(text.rstrip())

    def _now_and_then(self, text: str) -> None:
        if not self._live and time.monotonic() - self._last > PLAIN_SECONDS:
            self._last = time.monotonic()
            note(text.rstrip())


def _plan(event: TrainingPrepared) -> str:
    length = f"{event.steps} steps at most" if event.steps else "until the time is over"
    return (
        f"Device {event.device}; patches of {' × '.join(map(str, event.patch))} pixels, "
        f"{event.batch} a step; {event.epoch_steps} steps an epoch, {length}; "
        f"{event.parameters:,} parameters; {event.train_voxels:,} labelled pixels for training, "
        f"{event.validation_voxels:,} in {event.blocks} blocks for validation."
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
        if minutes >= 60
        else f"{minutes}:{rest:02d}"
    )


def _score(scores: Scores) -> str:
    return f"{score_word(scores)} {score_text(scores)}"


def score_table(scores: Scores) -> Table:
    """Dice and IoU of each structure and their means; of strokes, the agreement of each class."""
    if scores.on_strokes:
        return _agreement_table(scores)
    table = Table("number", "structure", "Dice", "IoU", box=None, pad_edge=False)
    for number, name, dice, iou in zip(
        scores.numbers, scores.names, scores.dice, scores.iou, strict=True
    ):
        table.add_row(str(number), name, _share(dice), _share(iou))
    table.add_row("", "mean", _share(scores.mean_dice), _share(scores.mean_iou), style="bold")
    return table


def object_table(counts: ObjectCounts) -> Table:
    """Average precision, panoptic quality and mistakes of objects."""
    table = Table(
        *("objects", "AP 0.5", "AP 0.75", "AP 0.5:0.95", "PQ", "splits", "merges"),
        box=None,
        pad_edge=False,
    )
    scores = (
        counts.precision_at(0.5),
        counts.precision_at(0.75),
        counts.mean_precision,
        counts.panoptic_quality,
    )
    numbers = f"{counts.predicted} of {counts.true}"
    table.add_row(numbers, *map(_share, scores), str(counts.split), str(counts.merged))
    return table


def _agreement_table(scores: Scores) -> Table:
    table = Table("number", "class", "agreement (90 % interval)", box=None, pad_edge=False)
    names = dict(zip(scores.numbers, scores.names, strict=True))
    for number, own in scores.agreement.each if scores.agreement else ():
        table.add_row(str(number), names.get(number, "background"), agreement_text(own))
    table.add_row("", "all", score_text(scores), style="bold")
    return table


def _share(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"


def write(text: str) -> None:
    """Write text to standard output exactly as it is."""
    sys.stdout.write(text + "\n")


def show_table(table: Table) -> None:
    """Print a table to standard output; in a file no name is cut."""
    console = _console()
    console.print(table, width=None if console.is_terminal else 200)


def show_facts(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values, a line each."""
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        tell(f"{name:<{width}}{value}")


def json_text(facts: Mapping[str, Any]) -> str:
    """JSON with sorted keys; NaN becomes null."""
    return json.dumps(_finite(facts), indent=2, sort_keys=True, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if value != value or value == "NaN" else value
