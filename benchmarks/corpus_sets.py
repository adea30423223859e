"""A corpus of pictures with masks as a data root with train and test items and strokes.

    python benchmarks/corpus_sets.py CORPUS OUT [--seed 0]

CORPUS is described in ``corpus.py``, OUT becomes what ``sets.py`` reads. Items whose names say that
they show the same slide, stack or animal are on the same side of the split; where a set is one
stack, items of its first part train and those of its last half test. Strokes are thin random walks
inside one class (``painter.py``), as many pixels of every class as there is room for, 1.5 % of the
pixels of a training picture, evenly over the pictures.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np
from corpus import OWN_STRUCTURES
from painter import even_strokes
from PIL import Image
from worlds import edges

from napari_unetseg.core.labels import BACKGROUND_LABEL

T = TypeVar("T")
AMOUNT = 0.015
"""Stroke pixels as a share of the pixels."""
TRAIN, FEWEST, MOST, TESTS = 6, 2, 6, 8
"""One item in six trains, within these limits; at most so many test."""
DENSE = ("em_mouse_cortex", "conf_maize_cells")
"""Sets of touching cells: their inside is the structure, borders are the background."""
OTHER_STRUCTURE = ("mIF",)
"""Items that show something else than the rest of their set."""
CROP = r".+?(?=_y\d+x\d+$|_half$|$)"
GROUPS = {
    "bf_stomata": r"[A-Za-z]+_[A-Za-z]+",
    "em_mouse_cortex": r"\d+$",
    "fl_mouse_embryo_nuclei": r"\d+cell",
    "fl_nuclei_u2os": r"MFGTMPcx7_\d+",
    "he_colon_glands_ebhi": r"GT\w+",
    "he_oral_tumour_ocdc": r"r\d+(?=c)",
    "he_prostate_glands": r"P\d+_[AC]\d+",
    "pap_nuclei_lct": r"\d+$",
    "photo_gravel": r"[a-z]+",
    "sbem_chloroplasts": r"\d+(?=_y)",
    "sem_axons_myelin": r"sub-rat\d+",
    "sem_barrier_coating": r"\w+?_\d+",
    "sem_superalloy": r"spot\d+|.+",
    "xct_sandstone": r"Versa\d+",
}
"""What in an item's name says where it is from; elsewhere the name without its crop."""
STACKS = ("em_mouse_cortex", "sbem_chloroplasts", "xct_sandstone")
"""Sets that are one stack: neighbours in the order of their names are alike."""


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by their value."""
    return [(int(p), "") if p.isdigit() else (0, p) for p in re.split(r"(\d+)", text) if p]


def groups_of(name: str, items: Sequence[str]) -> list[list[str]]:
    """The items of a set by where they are from, in the order of their names."""
    found: dict[str, list[str]] = {}
    for item in sorted(items, key=natural):
        match = re.search(GROUPS.get(name, CROP), item)
        found.setdefault(match[0].lower() if match else item, []).append(item)
    return [found[key] for key in sorted(found, key=natural)]


def split(name: str, items: Sequence[str]) -> tuple[list[str], list[str]]:
    """Items that train and items that test."""
    groups = groups_of(name, items)
    count = 1 if len(items) <= 3 else min(MOST, max(FEWEST, len(items) // TRAIN))
    if sum(map(len, groups)) - max(map(len, groups)) < 2:  # one slide: neighbours must do
        groups = [[item] for group in groups for item in group]
    sides = min(count, max(1, len(groups) // 2))
    if name in STACKS:
        ours, others = groups[:sides], groups[-(len(groups) // 2) :]
    else:
        order = evenly(groups, sides)
        ours, others = order[:sides], order[sides:]
    layers = zip_longest(*(evenly(group, -(-count // sides)) for group in ours))
    train = [item for layer in layers for item in layer if item is not None]
    tests = [item for group in others for item in group]
    return train[:count], evenly(tests, TESTS)[:TESTS]


def evenly(things: Sequence[T], count: int) -> list[T]:
    """The things with ``count`` of them first, evenly spread; the others keep their order."""
    places = np.unique(np.linspace(0, len(things) - 1, min(count, len(things))).round().astype(int))
    first = [things[place] for place in places]
    return first + [thing for place, thing in enumerate(things) if place not in places]


def as_classes(name: str, mask: np.ndarray, instances: bool) -> np.ndarray:
    """Classes (Y, X) uint8 of a mask as the benchmark scores them."""
    if name in DENSE:
        return np.where(edges(mask, 1.0), 0, mask > 0).astype(np.uint8)
    return (mask > 0).astype(np.uint8) if instances else mask.astype(np.uint8)


def make_set(
    rows: Sequence[dict[str, str]], corpus: Path, out: Path, rng: np.random.Generator
) -> Iterator[str]:
    """Write a set; yield its rows of the table."""
    name, instances = rows[0]["set"], rows[0]["labels"] == "instances"
    axes = "YXS" if rows[0]["colour"] == "RGB" else "YX"
    train, test = split(name, [r["item"] for r in rows if r["item"] not in OTHER_STRUCTURE])
    masks = {}
    for item in (*train, *test):
        mask = np.asarray(Image.open(corpus / name / "masks" / f"{item}.png"))
        masks[item] = as_classes(name, mask, instances)
    classes = sorted({int(v) or BACKGROUND_LABEL for i in train for v in np.unique(masks[i])})
    for folder in ("images", "masks", "scribbles"):
        (out / name / folder).mkdir(parents=True)
    for item, mask in masks.items():
        file = f"{item}.png"
        (out / name / "images" / file).symlink_to((corpus / name / "images" / file).resolve())
        Image.fromarray(mask).save(out / name / "masks" / file)
        role = "train" if item in train else "test"
        if role == "train":
            strokes = even_strokes(mask, classes, AMOUNT, rng)
            Image.fromarray(strokes).save(out / name / "scribbles" / file)
        yield f"{name}\t{axes}\tsemantic\t{role}\t{file}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the data root."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("corpus", type=Path, help="folder with index.tsv")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with (options.corpus / "index.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    table = ["set\taxes\tlabels\trole\titem"]
    for number, name in enumerate(dict.fromkeys(row["set"] for row in rows)):
        if name in OWN_STRUCTURES:
            continue
        own = [row for row in rows if row["set"] == name]
        rng = np.random.default_rng([options.seed, number])
        table += make_set(own, options.corpus, options.out, rng)
        print(f"{name}: {sum(line.startswith(name) for line in table)} items", flush=True)
    (options.out / "benchmark.tsv").write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
