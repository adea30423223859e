"""Steps a second of one process and of several that torchrun starts, each with one thread.

    python benchmarks/processes.py DATA [--set NAME] [--processes N] [--turns N] [--json FILE]

DATA is a folder with ``benchmark.tsv`` (see ``sets.py``). All train on the same joint batch, in
turns, so that what else the machine does hits both alike. The first steps are not counted. Where
other programs take the cores, CPU seconds of the first process say what an idle machine would do
at best.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_unetseg.core.events import Event

STEPS, WARM_UP = 50, 10


def train_here(data: Path, name: str, batch: int) -> list[float]:
    """Train, as one of the processes or alone: steps a second and a CPU second after the warm-up.

    Empty in all processes but the first: the others see no events.
    """
    from sets import read_sets

    from napari_unetseg import TrainSettings, train
    from napari_unetseg.training.training_events import StepDone

    times: list[tuple[float, float]] = []

    def watch(event: Event) -> None:
        if isinstance(event, StepDone) and event.step in (WARM_UP, STEPS):
            times.append((time.monotonic(), time.process_time()))

    (images,) = read_sets(data, name)
    # no score and no first answer between the steps
    settings = TrainSettings(
        steps=STEPS, batch=batch, threads=1, device="cpu", validation_fraction=0.0, seed=0
    )
    train([image.pair("strokes") for image in images.training()], settings, on_event=watch)
    return [(STEPS - WARM_UP) / (end - begin) for begin, end in zip(*times, strict=True)]


def turn(processes: int, options: argparse.Namespace) -> list[float]:
    """Start so many processes; what the first one measured."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(processes)]
    command += [str(Path(__file__)), str(options.data), "--set", options.set]
    command += ["--batch", str(options.batch), "--here"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()[-2:]]


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", default="phase_contrast_usiigaci")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(*train_here(options.data, options.set, options.batch))
        return
    found: dict[int, list[list[float]]] = {1: [], options.processes: []}
    for _ in range(options.turns):
        for processes, speeds in found.items():
            speeds.append(turn(processes, options))
            wall, cpu = speeds[-1]
            print(f"{processes} process(es): {wall:.2f} steps/s, {cpu:.2f}/CPU s", flush=True)
    facts: dict[str, Any] = {"set": options.set, "batch": options.batch, "turns": found}
    for place, clock in enumerate(("seconds", "cpu_seconds")):
        alone, together = (statistics.median(s[place] for s in each) for each in found.values())
        facts[f"ratio_of_{clock}"] = together / alone
        print(f"Steps of {options.processes} to those of one, by {clock}: {together / alone:.2f}")
    if options.json is not None:
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
