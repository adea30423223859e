"""First answer and Dice after so many steps on many sets, beside a forest on the same strokes.

    python benchmarks/decide.py DATA [DATA ...] --out DIR [--sets A,B] [--steps 60,150] [--seeds 0]
                                [--body FILE] [--set KEY=VALUE] [--change MODULE.NAME=VALUE]
                                [--tests N] [--mistakes]

Made for choices between two ways of training: one process, one thread, the newest averaged (EMA)
weights after a number of steps, not the best checkpoint. *First* is the initial model, before any
step. The forest is the same for every way, so its Dice is kept in ``DIR/forests``. A set's
ratio is (1 − Dice) / (1 − the forest's Dice), of means over seeds.

``--body`` takes another pretrained backbone; ``--set`` changes a training setting and ``--change``
a constant of a module of ``napari_unetseg.training``, such as ``linear_probe.RIDGE=1e-2`` (in the
module that uses it, where it is imported by name).
``--mistakes`` trains on strokes that were painted at the mistakes of earlier models
(``mistakes.py``) instead of the given ones. ``--tests`` scores only so many test items of a set.
``decide_report.py`` sets two reports side by side.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decide_report import of_set, print_summary, print_table, summary
from forest import Forest
from mistakes import ROUND_STEPS, strokes_at_mistakes
from sets import Annotated, BenchmarkSet, predictor, read_sets, score
from watch import machine, make_settings, write_json

from napari_unetseg.core.job_control import JobControl
from napari_unetseg.training import linear_probe
from napari_unetseg.training.training_run import TrainingRun
from napari_unetseg.training.training_state import Checkpoint

if TYPE_CHECKING:
    from napari_unetseg.core.settings import TrainSettings
    from napari_unetseg.models.model import Model

Json = dict[str, Any]
THREADS = 1


def newest_models(
    images: Sequence[Annotated],
    settings: TrainSettings,
    steps: Sequence[int],
    init: Model | None = None,
) -> Iterator[Model]:
    """The initial model, then the newest averaged weights after each number of steps."""
    pairs = [image.pair("strokes") for image in images]
    run = TrainingRun(pairs, settings, (), init, JobControl(settings.threads), None)
    with closing(run.trainer):
        for _ in run.begin():
            pass
        for mark in (0, *steps):
            while run.state.steps < mark:
                for _ in run.step():
                    pass
            newest = Checkpoint(run.trainer.weights(), run.state.steps)
            yield run.model("newest weights", newest)


def forest_dice(
    images: Sequence[Annotated], tests: Sequence[Annotated], seed: int, kept: Path
) -> float:
    """Dice of a forest on the test images, from a file if the same one was scored before."""
    digest = hashlib.sha256(str(seed).encode())
    for image in (*images, *tests):
        digest.update(image.image.data.tobytes() + image.labels.tobytes())
        digest.update(str(image.planes).encode())
    file = kept / f"{digest.hexdigest()[:16]}.json"
    if not file.is_file():
        write_json(file, score(tests, Forest(images, THREADS, seed).predict))
    return float(json.loads(file.read_text()))


def run_once(data: BenchmarkSet, seed: int, options: argparse.Namespace) -> Json:
    """Dice of the first answer and at the marks, and of the forest."""
    settings, tests = make_settings(options, seed), data.tests()
    images = data.training()
    found: Json = {"seed": seed}
    if options.mistakes:

        def train(on: Sequence[Annotated], init: Model | None) -> Model:
            return list(newest_models(on, settings, (ROUND_STEPS,), init))[-1]

        images, last = strokes_at_mistakes(data, seed, settings.device, train)
        found["going_on"] = score(tests, predictor(last, THREADS, settings.device))
    models = newest_models(images, settings, options.marks)
    found["dice"] = [score(tests, predictor(m, THREADS, settings.device)) for m in models]
    return {**found, "forest": forest_dice(images, tests, seed, options.out / "forests")}


def change(text: str) -> None:
    """Change a constant, ``MODULE.NAME=VALUE``, of a module of ``napari_unetseg.training``."""
    place, _, value = text.partition("=")
    module_name, _, name = place.partition(".")
    module = importlib.import_module(f"napari_unetseg.training.{module_name}")
    if not hasattr(module, name):
        raise SystemExit(f"napari_unetseg.training.{module_name} has no {name}.")
    setattr(module, name, json.loads(value))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, and make the changes that it asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("data", type=Path, nargs="+", help="folders with benchmark.tsv")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON")
    parser.add_argument("--name", default="decide", help="name of the JSON file")
    parser.add_argument("--sets", default="", help="comma-separated; default: all")
    parser.add_argument("--tests", type=int, help="test items of a set; default: all")
    parser.add_argument("--steps", default="60,150", help="comma-separated")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--body", type=Path, help="pretrained backbone; default: the shipped one")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--change", action="append", default=[], metavar="MODULE.NAME=VALUE")
    parser.add_argument("--mistakes", action="store_true", help="strokes at mistakes")
    options = parser.parse_args(arguments)
    options.threads = THREADS
    options.marks = [int(mark) for mark in options.steps.split(",")]
    if options.body:
        linear_probe.BACKBONE = options.body
    for text in options.change:
        change(text)
    return options


def chosen_sets(roots: Sequence[Path], names: str) -> list[BenchmarkSet]:
    """The named sets of several data roots, or all of them."""
    found = [data for root in roots for data in read_sets(root)]
    if not names:
        return found
    wanted = names.split(",")
    if missing := set(wanted) - {data.name for data in found}:
        raise SystemExit(f"No data root has a set {', '.join(sorted(missing))}.")
    return [data for data in found if data.name in wanted]


def shortened(data: BenchmarkSet, tests: int | None) -> BenchmarkSet:
    """The set with so many of its test items, evenly spread."""
    if tests is None or tests >= len(data.test):
        return data
    step = len(data.test) / tests
    return replace(data, test=tuple(data.test[int(i * step)] for i in range(tests)))


def main(arguments: Sequence[str] | None = None) -> Json:
    """Run every set, print a table, write JSON after each."""
    options = parse(arguments)
    marks = [0, *options.marks]
    report: Json = {
        "machine": machine(),
        "body": options.body.name if options.body else "shipped",
        "changed": [*options.set, *options.change],
        "strokes": "at mistakes" if options.mistakes else "given",
        "tests": options.tests,
        "marks": marks,
        "sets": {},
    }
    heads = ["first", *map(str, options.marks)]
    cells = "".join(f"{head:>7}" for head in (*heads, "forest", *heads))
    print(f"{'Dice; ratio to the forest':34}{cells}")
    for whole in chosen_sets(options.data, options.sets):
        data = shortened(whole, options.tests)
        runs = [run_once(data, int(s), options) for s in options.seeds.split(",")]
        report["sets"][data.name] = of_set(runs)
        report["summary"] = summary(report["sets"])
        print_table(data.name, report["sets"][data.name])
        write_json(options.out / f"{options.name}.json", report)
    print_summary(report)
    return report


if __name__ == "__main__":
    main()
