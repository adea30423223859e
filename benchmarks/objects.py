"""Average precision of numbered objects, beside other ways on the same images for the same time.

    python benchmarks/objects.py DATA --out DIR [--sets A,B] [--seeds 0,1,2] [--minutes 10]
        [--few-minutes 2] [--modes masks,finished,strokes] [--ways ours,border,necks,stardist]
        [--stardist ENVIRONMENT] [--dims 2]

Sets are those of the data root whose labels are ``instances`` (``object_sets.py`` says what trains
and tests), with three kinds of labels: all masks (``masks``), 20 finished objects in four images
and their strokes (``finished``), the strokes of these images (``strokes``). The ways are in
``object_ways.py``; settings are the defaults for all sets, nothing is tuned to a set. Each way
trains for ``--minutes`` with all masks, else for ``--few-minutes``, of CPU time divided by the
threads. Our network starts from the program's pretrained backbone, also in ``border``; StarDist
starts from random weights.

What is done is kept in DIR: a run that was broken off goes on, and one with other settings needs
another DIR. Seeds and ways take turns.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from object_scores import MEASURES, scores_of_objects
from object_sets import MODES, Split, read_split
from object_ways import WAYS, Skipped, Task
from sets import read_sets
from watch import add_options, clock_kind, machine, make_settings, write_json

Json = dict[str, Any]


def run_way(name: str, way: str, mode: str, seed: int, split: Split, options: Any) -> Json:
    """Scores of a way on the test pictures of a set, or why there are none."""
    stem = options.out / "runs" / f"{name}_{mode}_{seed}"
    path = Path(f"{stem}_{way}.json")
    if path.is_file():
        return dict(json.loads(path.read_text()))
    minutes = options.minutes if mode == "masks" else options.few_minutes
    labelled = split.labelled(mode, seed)
    task = Task(labelled, split.test, seed, minutes, stem, options)
    try:
        found = WAYS[way](task)
    except Skipped as why:
        return {"skipped": str(why)}
    truths = [picture.ids for picture in split.test]
    result = {"seed": seed, **scores_of_objects(truths, found.ids), "training": found.training}
    write_json(path, result)
    return result


def run_set(name: str, split: Split, options: argparse.Namespace) -> Json:
    """All modes, seeds and ways of a set, with medians over the seeds."""
    result: Json = {"split": split.names}
    for mode in options.modes:
        runs: dict[str, list[Json]] = {way: [] for way in options.ways}
        for seed in options.seed_numbers:
            for way in options.ways:
                runs[way].append(run_way(name, way, mode, seed, split, options))
                print(f"{name} {mode} seed {seed} {way}:", _text(runs[way][-1]), flush=True)
        result[mode] = {way: summary(found) for way, found in runs.items()}
    return result


def summary(runs: Sequence[Json]) -> Json:
    """The runs of a way with their medians, or why there are none."""
    scored = [run for run in runs if "skipped" not in run]
    if not scored:
        return dict(runs[0])
    return {"median": {m: median(run[m] for run in scored) for m in MEASURES}, "runs": scored}


def _text(scores: Json) -> str:
    if "skipped" in scores:
        return str(scores["skipped"])
    return "  ".join(f"{scores[measure]:.3f}" for measure in MEASURES)


def table(report: Json) -> list[str]:
    """Medians of all sets, a line for each way."""
    lines = [f"{'set':26} {'labels':9} {'way':9} " + "  ".join(f"{m:>5}" for m in MEASURES)]
    for name, result in report["sets"].items():
        for mode in MODES:
            for way, found in result.get(mode, {}).items():
                text = _text(found.get("median", found))
                lines.append(f"{name:26} {mode:9} {way:9} {text}")
    return lines


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_options(parser)
    parser.add_argument("--sets", default="", help="comma-separated; default: all with instances")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training with all masks")
    parser.add_argument("--few-minutes", type=float, default=2.0, help="of training with less")
    parser.add_argument("--modes", default=",".join(MODES), help="comma-separated")
    parser.add_argument("--ways", default=",".join(WAYS), help="comma-separated")
    parser.add_argument("--stardist", type=Path, help="Python environment that has StarDist")
    parser.add_argument("--dims", type=int, choices=(2, 3), default=2)
    options = parser.parse_args(arguments)
    options.modes, options.ways = options.modes.split(","), options.ways.split(",")
    for chosen, known in ((options.modes, MODES), (options.ways, tuple(WAYS))):
        if unknown := set(chosen) - set(known):
            parser.error(f"{', '.join(unknown)}: choose from {', '.join(known)}")
    if options.out is None:
        parser.error("say with --out where to keep what is done")
    options.kind = clock_kind(options)
    options.device = make_settings(options, 0).device
    options.seed_numbers = [int(seed) for seed in options.seeds.split(",")]
    return options


def check_settings(options: argparse.Namespace) -> Json:
    """The settings of the run; what is kept in the folder must be of the same."""
    settings = {
        "minutes": options.minutes,
        "few_minutes": options.few_minutes,
        "threads": options.threads,
        "dims": options.dims,
        "clock": options.kind,
        "changed_settings": options.set,
    }
    path = options.out / "runs" / "settings.json"
    if path.is_file() and json.loads(path.read_text()) != settings:
        raise SystemExit(f"{options.out} holds a run with other settings; choose another --out.")
    write_json(path, settings)
    return settings


def main(arguments: Sequence[str] | None = None) -> Json:
    """Run every set; what is done so far is written after each."""
    options = parse(arguments)
    report: Json = {"machine": machine(), **check_settings(options), "sets": {}}
    for data in read_sets(options.data, options.sets):
        if not data.instances or (options.dims == 3 and not data.axes.endswith("ZYX")):
            continue
        report["sets"][data.name] = run_set(data.name, read_split(data, options.dims), options)
        write_json(options.out / "objects.json", report)
    print("\n".join(table(report)))
    return report


if __name__ == "__main__":
    main()
