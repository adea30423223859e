"""What the runs of ``quality.py`` come to: medians, ratios, tables and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

Json = dict[str, Any]
COLORS = {"strokes": "#0072B2", "full": "#009E73", "forest": "#D55E00"}


def ratio(ours: float, forest: float) -> float:
    """What is left to gain, ours over the forest's: below 1 ours is better."""
    return (1 - ours) / max(1 - forest, 1e-6)


def medians(runs: Sequence[Json]) -> Json:
    """Medians over seeds of every number, and of lists of numbers place by place."""
    found: Json = {}
    for key, value in runs[0].items():
        values = [run[key] for run in runs]
        if key == "dice" and isinstance(value, list):
            found[key] = [median(column) for column in zip(*values, strict=True)]
        elif isinstance(value, int | float) and key != "seed":
            found[key] = median(values)
    if runs[0].get("largest_fall") is not None:
        found["worst_fall"] = max(run["largest_fall"] for run in runs)
    return found


def summary(results: dict[str, Json], counted: Sequence[str]) -> Json:
    """Mean and worst ratio at every mark, and of the first mask, over the counted sets."""
    chosen = [results[name] for name in counted if name in results]
    if not chosen or "ratio" not in chosen[0]:
        return {}
    columns = list(zip(*(result["ratio"] for result in chosen), strict=True))
    strokes = [result["median"]["strokes"] for result in chosen]
    falls = [ours["worst_fall"] for ours in strokes if "worst_fall" in ours]
    return {
        "sets": [name for name in counted if name in results],
        "mean_ratio": [mean(column) for column in columns],
        "worst_ratio": [max(column) for column in columns],
        "slowest_first_seconds": max(ours["first_seconds"] for ours in strokes),
        "mean_first_over_forest": mean(result["first_over_forest"] for result in chosen),
        "worst_fall": max(falls) if falls else None,
    }


def row(name: str, values: list[Any], form: str = "7.3f") -> str:
    """One line of a table; None is a dash."""
    width = int(form.split(".")[0])
    cells = [f"{'–':>{width}}" if value is None else f"{value:{form}}" for value in values]
    return f"{name:34}" + "".join(cells)


def print_tables(report: Json) -> None:
    """Dice and ratios at the marks, the first mask, the falls."""
    unit = "CPU seconds a thread" if report["clock"] == "cpu" else "wall seconds"
    heads = [f"{mark} s" for mark in report["marks"]]
    print(f"\nDice, medians over seeds; {unit}, {report['threads']} threads")
    print(f"{'set':34}" + "".join(f"{head:>7}" for head in heads) + "   forest  fit s  s/Mpx")
    for name, result in report["sets"].items():
        middle, forest = result["median"], result["median"].get("forest")
        for truth in ("strokes", "full"):
            if truth in middle:
                label = name if truth == "strokes" else f"{name}, full masks"
                line = row(label, middle[truth]["dice"])
                if truth == "strokes" and forest:
                    line += f"  {forest['dice']:7.3f}{forest['fit_seconds']:7.1f}"
                    line += f"{forest['predict_seconds_per_mpx']:7.1f}"
                print(line)
        if "share_of_full" in result:
            print(row("  strokes over full masks", result["share_of_full"]))
    if report["summary"]:
        _print_ratios(report)


def _print_ratios(report: Json) -> None:
    heads = [f"{mark} s" for mark in report["marks"]]
    print("\n(1 − Dice) / (1 − forest's Dice); first mask of 512²: s, Dice over the forest's; fall")
    print(f"{'set':34}" + "".join(f"{head:>7}" for head in heads) + "  first s  share   fall")
    for name, result in report["sets"].items():
        ours = result["median"]["strokes"]
        last = [result["first_over_forest"], ours.get("worst_fall")]
        print(row(name, result["ratio"]) + row("", [ours["first_seconds"], *last])[34:].rjust(23))
    found = report["summary"]
    last = [found["mean_first_over_forest"], found["worst_fall"]]
    print(row(f"mean of {len(found['sets'])} sets", found["mean_ratio"]))
    print(
        row("worst", found["worst_ratio"])
        + row("", [found["slowest_first_seconds"], *last])[34:].rjust(23)
    )


def plot(report: Json, path: Path) -> None:
    """Dice over time of every seed, a picture for each set."""
    from matplotlib.figure import Figure

    sets = report["sets"]
    columns = min(3, len(sets))
    rows = -(-len(sets) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(sets) :]:
        axis.set_axis_off()
    for axis, (name, result) in zip(axes, sets.items(), strict=False):
        _draw(axis, result, report["marks"])
        axis.set_title(name, fontsize=10)
    axes[0].set_ylabel("Dice on the test images")
    axes[0].legend(fontsize=8, loc="best")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _draw(axis: Any, result: Json, marks: list[int]) -> None:
    end = max(marks, default=1)
    for truth in ("full", "strokes"):
        runs = result["runs"].get(truth, [])
        for number, found in enumerate(runs):
            seconds, _, dice = zip(*found["curve"], strict=True)
            axis.step(
                [*seconds, max(end, seconds[-1])],
                [*dice, dice[-1]],
                where="post",
                color=COLORS[truth],
                linewidth=1,
                label={"strokes": "U-Net", "full": "U-Net, full masks"}[truth]
                if number == 0
                else None,
            )
    if forest := result["median"].get("forest"):
        axis.plot(
            [min(forest["fit_seconds"], end), end],
            [forest["dice"]] * 2,
            color=COLORS["forest"],
            linestyle="--",
            label="random forest",
        )
    axis.set_xscale("log")
    axis.set_xticks(marks, [str(mark) for mark in marks])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("seconds after Train")
    axis.grid(alpha=0.3)
