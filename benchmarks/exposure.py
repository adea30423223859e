"""The same images at another gain and offset, in 8 and 16 bits, dim, saturated, inverted.

    python benchmarks/exposure.py DATA [--sets A,B] [--seeds 0] [--models DIR] [--out DIR]

A model is trained for so many steps on the first training image of a set (``one``), and on all of
them where there are several. The test images are changed as another exposure, offset or file would
change them, and a crop of each is predicted: scaled by today's rule (``after``), by the rule of
2857144 (``before``: the range of the training images unless it is more than six times wider or
narrower), and by its own percentiles (``own``). What is changed is the whole image, and what is
measured of it too. A fall is what the Dice loses against the unchanged image; scaling could have
saved it where its own percentiles do. ``said``: the share of the images of which anything is said.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sets import Annotated, BenchmarkSet, Plane, pooled_dice, read_sets
from watch import add_options, machine, make_settings, write_json

from napari_unetseg.core.events import TilePredicted
from napari_unetseg.core.image_stack import Normalization, Stack
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.inference.predict import predict_events
from napari_unetseg.models.model import Model, load_model
from napari_unetseg.training.train import train

Json = dict[str, Any]
Change = Callable[[np.ndarray, float], np.ndarray]
"""From an image and the width of the training images' range to the changed image."""
GAINS = (0.1, 0.2, 0.33, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0)
OFFSETS = (-2.0, -0.5, -0.25, 0.0, 0.25, 0.5, 2.0, 10.0)
RULES = ("before", "after", "own")
SCALING_FACTOR = 6.0
"""Of the rule before."""
CROP = 192
IMAGES, PLANES = 4, 2
"""So many images of a set are tested at most, and so many planes of each."""
FALL = 0.05


def affine(gain: float, offset: float) -> Change:
    """Another gain, and an offset in units of the training images' range; nothing is cut off."""
    return lambda image, width: image.astype(np.float32) * gain + offset * width


def stored(gain: float, bits: int) -> Change:
    """Another gain in a file of so many bits that the unchanged image fills."""

    def change(image: np.ndarray, _: float) -> np.ndarray:
        top = 2**bits - 1
        full = np.float32(top / max(float(image.max()), 1.0))
        values = np.round(image.astype(np.float32) * full * gain).clip(0, top)
        found: np.ndarray = values.astype(np.uint8 if bits == 8 else np.uint16)
        return found

    return change


def dark_cut(offset: float) -> Change:
    """An offset below which everything is 0."""
    return lambda image, width: np.maximum(image.astype(np.float32) + offset * width, 0)


def inverted(image: np.ndarray, _: float) -> np.ndarray:
    """Bright is dark and dark is bright."""
    pixels: np.ndarray = image.astype(np.float32)
    found: np.ndarray = pixels.max() + pixels.min() - pixels
    return found


OTHERS: dict[str, Change] = {
    **{f"8 bits × {gain:g}": stored(gain, 8) for gain in (0.03, 0.06, 0.12, 0.25, 0.5, 1, 2, 4)},
    **{f"16 bits × {gain:g}": stored(gain, 16) for gain in (0.01, 0.1, 1, 4)},
    **{f"cut off at {offset:g}": dark_cut(offset) for offset in (-0.25, -0.5, -1)},
    "inverted": inverted,
}


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A plane of a test image, the piece of it that is predicted, and the truth there."""

    image: Annotated
    plane: Plane
    region: tuple[slice, slice]

    @classmethod
    def of(cls, image: Annotated, plane: Plane) -> Crop:
        """Where most structures are, but not everywhere."""
        found = image.labels[plane] > 0
        edges = [min(CROP, size) for size in found.shape]
        starts = [
            range(0, s - e + 1, max(1, (s - e) // 2))
            for s, e in zip(found.shape, edges, strict=True)
        ]
        regions = [
            (slice(y, y + edges[0]), slice(x, x + edges[1])) for y in starts[0] for x in starts[1]
        ]
        return cls(image, plane, max(regions, key=lambda r: min(found[r].mean(), 0.4)))

    @property
    def truth(self) -> np.ndarray:
        """The mask of the piece."""
        found: np.ndarray = self.image.labels[self.plane][self.region]
        return found

    def cut(self, stack: Stack) -> Stack:
        """The same piece of a changed image."""
        pixels = stack.read(self.plane, self.region)
        if stack.axes.endswith("S"):
            return Stack(np.moveaxis(pixels, 0, -1), "YXS", name=stack.name)
        return Stack(pixels, "CYX", name=stack.name)


def crops_of(images: Sequence[Annotated]) -> list[Crop]:
    """Some planes of some images, evenly spread."""
    some = [
        images[i] for i in np.linspace(0, len(images) - 1, min(IMAGES, len(images))).astype(int)
    ]
    return [Crop.of(image, plane) for image in some for plane in image.planes[:PLANES]]


def empty_pieces(images: Sequence[Annotated], edge: int = 128, most: int = 4) -> list[Stack]:
    """Pieces of test images that show no structure, each an image of its own."""
    found: list[Stack] = []
    for crop in crops_of(images):
        truth = crop.image.labels[crop.plane]
        corners = np.ndindex(*(max(0, size // edge) for size in truth.shape))
        regions = [
            (slice(y * edge, (y + 1) * edge), slice(x * edge, (x + 1) * edge)) for y, x in corners
        ]
        empty = [region for region in regions if not truth[region].any()]
        found += [replace(crop, region=region).cut(crop.image.image) for region in empty[:1]]
    return found[:most]


class Tester:
    """Predicts changed images with one model, scaled by each rule."""

    def __init__(self, model: Model, threads: int) -> None:
        self.model, self.settings = model, PredictSettings(threads=threads, device="cpu")
        self.usual = model.normalization
        self.width = float(np.mean(np.subtract(self.usual.high, self.usual.low)))
        self._known: dict[bytes, np.ndarray] = {}

    def scalings(self, stack: Stack) -> tuple[dict[str, Normalization], bool]:
        """How each rule scales an image, and whether anything is said of it now."""
        own = Normalization.choose([stack])
        after, notices = self.usual.for_stack(stack)
        return {"before": self._before(own), "after": after, "own": own}, bool(notices)

    def _before(self, own: Normalization) -> Normalization:
        if self.usual.per_image:
            return own
        usual = zip(self.usual.low, self.usual.high, own.low, own.high, strict=True)
        ratios = [(b - a) / (high - low) for low, high, a, b in usual if high > low and b > a]
        most = SCALING_FACTOR
        return own if ratios and all(r > most or r < 1 / most for r in ratios) else self.usual

    def mask(self, piece: Stack, scaling: Normalization) -> np.ndarray:
        """The mask of a piece of one plane."""
        scaled = scaling.apply(piece.read((), piece.whole(2)))
        key = np.round(scaled, 3).tobytes()
        if key not in self._known:
            mask = np.zeros(piece.grid_shape, np.uint8)
            events = predict_events(self.model, piece, self.settings, normalization=scaling)
            for event in events:
                if isinstance(event, TilePredicted):
                    mask[event.index] = event.mask
            self._known[key] = mask
        return self._known[key]

    def dice(self, crops: Sequence[Crop], change: Change) -> Json:
        """Dice of each rule on changed images, and the share of which something is said."""
        found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {rule: [] for rule in RULES}
        said = 0
        for crop in crops:
            image = crop.image.image
            stack = replace(image, data=change(np.asarray(image.data), self.width))
            scalings, noticed = self.scalings(stack)
            said += noticed
            for rule, scaling in scalings.items():
                found[rule].append((self.mask(crop.cut(stack), scaling), crop.truth))
        return {
            **{rule: pooled_dice(pairs) for rule, pairs in found.items()},
            "said": said / len(crops),
        }

    def foreground(self, pieces: Sequence[Stack], change: Change) -> Json:
        """Share of what each rule finds in images without any structure."""
        found: dict[str, list[float]] = {rule: [] for rule in RULES}
        for piece in pieces:
            stack = replace(piece, data=change(np.asarray(piece.data), self.width))
            for rule, scaling in self.scalings(stack)[0].items():
                found[rule].append(float((self.mask(stack, scaling) > 0).mean()))
        return {rule: float(np.mean(shares)) for rule, shares in found.items()}


def falls(unchanged: Json, rows: Sequence[Json]) -> Json:
    """Of the changes that scaling can mend: how often and how far the Dice falls."""
    usual = unchanged["after"]
    mendable = [row for row in rows if row["own"] >= usual - FALL]
    result: Json = {"mendable": len(mendable)}
    for rule in ("before", "after"):
        lost = [usual - row[rule] for row in mendable]
        result[rule] = {
            "fallen": sum(fall > FALL for fall in lost),
            "worst": max(lost, default=0.0),
        }
    others = [row for row in rows if row["own"] < usual - FALL and row["after"] < usual - FALL]
    return {
        **result,
        "not_mendable": len(others),
        "of_these_said": sum(r["said"] > 0 for r in others),
    }


def matrix(rows: Sequence[Json], key: str) -> list[list[float]]:
    """A value of each cell: a row for each of `GAINS`, a column for each of `OFFSETS`."""
    values = [round(row[key], 3) for row in rows]
    return [values[i : i + len(OFFSETS)] for i in range(0, len(values), len(OFFSETS))]


def run_model(model: Model, tests: Sequence[Annotated], threads: int) -> Json:
    """Everything about one model."""
    tester, crops = Tester(model, threads), crops_of(tests)
    cells = [(gain, offset) for gain in GAINS for offset in OFFSETS]
    grid = [
        {"gain": gain, "offset": offset, **tester.dice(crops, affine(gain, offset))}
        for gain, offset in cells
    ]
    others = [{"change": name, **tester.dice(crops, change)} for name, change in OTHERS.items()]
    unchanged = tester.dice(crops, affine(1.0, 0.0))
    empty = empty_pieces(tests)
    return {
        "per_image": model.normalization.per_image,
        "crops": len(crops),
        "unchanged": unchanged,
        "grid_falls": falls(unchanged, grid),
        "other_falls": falls(unchanged, others),
        "empty": [
            {"gain": g, "offset": o, **tester.foreground(empty, affine(g, o))}
            for g, o in ((1.0, 0.0), (4.0, 0.0), (1.0, 2.0))
            if empty
        ],
        "grid": {rule: matrix(grid, rule) for rule in (*RULES, "said")},
        "others": others,
    }


def model_of(data: BenchmarkSet, kind: str, seed: int, options: argparse.Namespace) -> Model:
    """A model of one training image or all of them, trained here or before."""
    path = options.models / f"{data.name}_{kind}_s{seed}.safetensors" if options.models else None
    if path is not None and path.is_file():
        return load_model(path)
    pairs = [image.pair("strokes") for image in data.training()]
    settings = make_settings(options, seed).model_copy(update={"steps": options.steps})
    model = train(pairs[:1] if kind == "one" else pairs, settings)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return model


def kinds(data: BenchmarkSet) -> Iterator[str]:
    """One training image, and all where there are several."""
    yield "one"
    if len({item.file for item in data.train}) > 1:
        yield "several"


def print_row(name: str, found: Json) -> None:
    """A line of the table."""
    dice = " ".join(f"{found['unchanged'][rule]:.3f}" for rule in RULES)
    cells = []
    for kind in ("grid_falls", "other_falls"):
        f = found[kind]
        cells.append(
            f"{f['before']['fallen']:3d} → {f['after']['fallen']:3d} of {f['mendable']:3d} "
            f"(worst {f['before']['worst']:.2f} → {f['after']['worst']:.2f}), "
            f"{f['of_these_said']} of {f['not_mendable']} others said"
        )
    empty = " ".join(f"{row['before']:.2f}→{row['after']:.2f}" for row in found["empty"])
    print(f"{name:34} {dice} | {' | '.join(cells)} | empty {empty}", flush=True)


def main(arguments: Sequence[str] | None = None) -> Json:
    """Read the arguments, run every set, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_options(parser)
    parser.add_argument("--sets", default="", help="comma-separated; default all")
    parser.add_argument("--steps", type=int, default=200, help="of each training")
    parser.add_argument("--models", type=Path, help="folder that keeps the models")
    options = parser.parse_args(arguments)
    report: Json = {
        "machine": machine(),
        "steps": options.steps,
        "changed": options.set,
        "gains": GAINS,
        "offsets": OFFSETS,
        "sets": {},
    }
    print("Dice before, after, own | gain × offset: fallen before → after | other changes | empty")
    for data in read_sets(options.data, options.sets):
        for kind in kinds(data):
            for seed in map(int, options.seeds.split(",")):
                model = model_of(data, kind, seed, options)
                name = f"{data.name}, {kind}, seed {seed}"
                found = run_model(model, data.tests(), options.threads)
                report["sets"][name] = found
                print_row(name, found)
                if options.out:
                    write_json(options.out / "exposure.json", report)
    return report


if __name__ == "__main__":
    main()
