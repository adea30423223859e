"""The clock of the benchmarks, and what is shown to the user at each moment of a training.

Models are kept while a training runs and scored when it is over, so that scoring takes none of its
time. The clock counts CPU seconds of this process divided by the threads that were asked for: on
an idle machine about the wall time, and on a busy one what it would be if it were idle. Work that
uses fewer threads than it may counts less than on a wall clock, which is why wall time is kept
beside it. With a GPU the clock is the wall's.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.settings import TrainSettings
from napari_unetseg.models.training_record import now, versions
from napari_unetseg.runtime.devices import device_name, pick_device
from napari_unetseg.training.train import train_events
from napari_unetseg.training.training_events import ModelUpdated, StepDone, TrainingDone

if TYPE_CHECKING:
    import argparse

    from napari_unetseg.data.annotated_image import AnnotatedImage
    from napari_unetseg.models.model import Model

T = TypeVar("T")


class Clock:
    """Seconds since it was made; ``kind`` is ``cpu`` (per thread) or ``wall``."""

    def __init__(self, threads: int, kind: str = "cpu") -> None:
        self._threads, self._kind = threads, kind
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    @property
    def wall(self) -> float:
        """Seconds of wall time."""
        return time.perf_counter() - self._wall

    @property
    def cpu(self) -> float:
        """CPU seconds of the whole process, over all its threads."""
        return time.process_time() - self._cpu

    @property
    def seconds(self) -> float:
        """Seconds of the chosen kind."""
        return self.wall if self._kind == "wall" else self.cpu / self._threads


def timed(threads: int, kind: str, work: Callable[[], T]) -> tuple[T, float]:
    """Do some work; return its result and its seconds."""
    clock = Clock(threads, kind)
    result = work()
    return result, clock.seconds


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A model, and the seconds after the press of Train from which on it is the one shown."""

    seconds: float
    wall: float
    model: Model


@dataclass(slots=True, eq=False)
class Trace:
    """All models that were shown during a training, and how it ended."""

    shown: list[Shown] = field(default_factory=list)
    seconds: float = 0.0
    wall: float = 0.0
    steps: int = 0
    reason: str = ""

    def at(self, seconds: float) -> Shown | None:
        """What is shown at that time; after the end, the last model."""
        return next((s for s in reversed(self.shown) if s.seconds <= seconds), None)

    def between(self, start: float, end: float) -> list[Shown]:
        """What is shown at ``start``, and whatever comes after it until ``end``."""
        first = self.at(start)
        later = [s for s in self.shown if start < s.seconds <= end]
        return later if first is None else [first, *later]


def watch(
    pairs: Sequence[AnnotatedImage],
    settings: TrainSettings,
    seconds: float,
    *,
    kind: str = "cpu",
    init: Model | None = None,
) -> Trace:
    """Train for so many seconds of the clock, or until the training ends by itself.

    At least one step is made, however short the time.
    """
    control, trace = JobControl(settings.threads), Trace()
    clock = Clock(settings.threads or torch.get_num_threads(), kind)
    events = train_events(pairs, settings, init=init, control=control)
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            final: Model = end.value
            break
        if isinstance(event, ModelUpdated):
            trace.shown.append(Shown(clock.seconds, clock.wall, event.model))
        elif isinstance(event, StepDone):
            trace.steps = event.step
        elif isinstance(event, TrainingDone):
            trace.reason = event.reason
        if trace.steps and clock.seconds >= seconds:
            control.stop()
    trace.seconds, trace.wall = clock.seconds, clock.wall
    if not trace.shown or trace.shown[-1].model.id != final.id:
        trace.shown.append(Shown(trace.seconds, trace.wall, final))
    return trace


def add_options(parser: argparse.ArgumentParser, *, seeds: bool = True) -> None:
    """Options that all programs which train have in common."""
    parser.add_argument("data", type=Path, help="folder with benchmark.tsv")
    if seeds:
        parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clock", choices=("auto", "cpu", "wall"), default="auto")
    parser.add_argument("--out", type=Path, help="folder for the JSON and the plot")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a training setting, such as --set dims=3; default: none is changed",
    )


def make_settings(options: argparse.Namespace, seed: int) -> TrainSettings:
    """Default settings with seed and threads, and what ``--set`` changed."""
    changes: dict[str, Any] = {"seed": seed, "threads": options.threads}
    for change in options.set:
        key, _, value = change.partition("=")
        try:
            changes[key] = json.loads(value)
        except json.JSONDecodeError:
            changes[key] = value
    return TrainSettings.model_validate(changes)


def clock_kind(options: argparse.Namespace) -> str:
    """``cpu`` or ``wall``; by itself the wall's where a GPU does the work."""
    if options.clock != "auto":
        return str(options.clock)
    return "cpu" if pick_device(make_settings(options, 0).device).type == "cpu" else "wall"


def machine() -> dict[str, Any]:
    """What a result was measured on: processor, memory, GPU, versions, load, date."""
    found = versions()
    for name in ("scikit-image", "scikit-learn", "monai", "segmentation-models-pytorch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": now(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "device": device_name(pick_device("auto")),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "versions": found,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def write_json(path: Path, report: object) -> None:
    """Write a report with numbers cut to what they mean."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(report), indent=1) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if value == value else None
    if isinstance(value, dict):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
