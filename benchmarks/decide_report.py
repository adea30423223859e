"""What the runs of ``decide.py`` come to, and two of its reports side by side.

    python benchmarks/decide_report.py BEFORE.json AFTER.json

For the sets and marks that both reports have: Dice before, Dice after and the difference; at the
end the means, how many sets gained or lost more than 0.01, and the largest loss.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from quality_report import ratio, row

Json = dict[str, Any]
NOTICED = 0.01
"""Difference of Dice that counts as a gain or a loss."""


def of_set(runs: Sequence[Json]) -> Json:
    """Means over seeds, and ratios of them."""
    dice = [mean(column) for column in zip(*(run["dice"] for run in runs), strict=True)]
    forest = mean(run["forest"] for run in runs)
    return {
        "runs": list(runs),
        "dice": dice,
        "forest": forest,
        "ratio": [ratio(value, forest) for value in dice],
    }


def summary(results: dict[str, Json]) -> Json:
    """Mean Dice, mean and worst ratio over the sets, at every mark."""
    ratios = list(zip(*(found["ratio"] for found in results.values()), strict=True))
    dice = zip(*(found["dice"] for found in results.values()), strict=True)
    return {
        "sets": len(results),
        "mean_dice": [mean(column) for column in dice],
        "mean_forest": mean(found["forest"] for found in results.values()),
        "mean_ratio": [mean(column) for column in ratios],
        "worst_ratio": [max(column) for column in ratios],
        "worse_than_forest": [sum(value > 1 for value in column) for column in ratios],
    }


def print_table(name: str, found: Json) -> None:
    """The line of one set: Dice, the forest's, ratios."""
    print(row(name, [*found["dice"], found["forest"], *found["ratio"]]), flush=True)


def print_summary(report: Json) -> None:
    """The last lines of the table."""
    found = report["summary"]
    empty = [None] * (len(report["marks"]) + 1)
    print(row("mean", [*found["mean_dice"], found["mean_forest"], *found["mean_ratio"]]))
    print(row("worst", [*empty, *found["worst_ratio"]]))
    print(row("sets worse than the forest", [*empty, *found["worse_than_forest"]], "7.0f"))


def differences(before: Json, after: Json) -> dict[str, list[list[float]]]:
    """Dice before and after at every mark that both have, for every set that both have."""
    marks = [mark for mark in before["marks"] if mark in after["marks"]]
    return {
        name: [
            [
                report["sets"][name]["dice"][report["marks"].index(mark)]
                for report in (before, after)
            ]
            for mark in marks
        ]
        for name in before["sets"]
        if name in after["sets"]
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args(arguments)
    before, after = (json.loads(path.read_text()) for path in (options.before, options.after))
    found = differences(before, after)
    marks = [mark for mark in before["marks"] if mark in after["marks"]]
    heads = "".join(f"{f'after {mark} steps':>21}" for mark in marks)
    print(f"{'Dice before, after, difference':34}{heads}")
    for name, pairs in found.items():
        print(row(name, [value for a, b in pairs for value in (a, b, b - a)]))
    columns = [list(zip(*column, strict=True)) for column in zip(*found.values(), strict=True)]
    middle = [(mean(a), mean(b)) for a, b in columns]
    print(row("mean", [value for a, b in middle for value in (a, b, b - a)]))
    for mark, (a, b) in zip(marks, columns, strict=True):
        change = [new - old for old, new in zip(a, b, strict=True)]
        gained, lost = sum(x > NOTICED for x in change), sum(x < -NOTICED for x in change)
        print(
            f"after {mark} steps: {gained} sets gained more than {NOTICED}, {lost} lost more; "
            f"largest loss {max(0.0, -min(change)):.3f}"
        )


if __name__ == "__main__":
    main()
