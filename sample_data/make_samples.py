"""Make the files of this folder: `python sample_data/make_samples.py [--out DIR] [--wheel WHEEL]`.

The simulated stack, its truth and all strokes come out the same on every run. The real picture of
nuclei and its mask are kept as they are; `--wheel` takes them anew from a wheel of stardist
(`pip download --no-deps stardist`).
"""

from __future__ import annotations

import argparse
import shutil
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import numpy as np
import simulate_cells
import simulate_nuclei
import tifffile
from paint_strokes import BACKGROUND, Stroke, draw, draw_along, room
from scipy import ndimage
from skimage.measure import regionprops

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
REAL = {"nuclei2d.tif": "img2d.tif", "nuclei2d_mask.tif": "mask2d.tif"}
CELL = 128  # strokes are spread over squares of this size
SEED = 2015
FINISHED = 6  # finished objects of each kind in the picture with two kinds
STROKED_PLANES = ((0, 2), (1, 1), (1, 3), (2, 2))  # (t, z) of the simulated stack


def main() -> None:
    """Make every file and say its size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    parser.add_argument("--wheel", type=Path, help="wheel of stardist with the picture of nuclei")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    written = [*real_files(options.out, options.wheel), *stroke_nuclei(options.out)]
    written += [*simulated_files(options.out), *two_kinds_files(options.out)]
    for path in written:
        print(f"{path.stat().st_size / 1024:7.0f} kB  {path.name}")


def real_files(out: Path, wheel: Path | None) -> Iterator[Path]:
    """Take picture and mask from the wheel, or copy them where `out` is another folder."""
    for name, source in REAL.items():
        if wheel is not None:
            with ZipFile(wheel) as archive:
                image = tifffile.imread(BytesIO(archive.read(f"stardist/data/images/{source}")))
            tifffile.imwrite(out / name, image.astype(np.uint16), compression="zlib", metadata=None)
            yield out / name
        elif out.resolve() != HERE:
            shutil.copyfile(HERE / name, out / name)
            yield out / name


# -- strokes on the real picture ------------------------------------------------------------------


def stroke_nuclei(out: Path) -> Iterator[Path]:
    """Paint one nucleus and some background in every square of the picture of nuclei."""
    image = tifffile.imread(out / "nuclei2d.tif")
    mask = tifffile.imread(out / "nuclei2d_mask.tif")
    rng = np.random.default_rng(SEED)
    strokes = np.zeros(mask.shape, np.uint8)
    for number in choose_nuclei(image, mask, rng):
        width = 3 if (mask == number).sum() < 250 else float(rng.choice([3, 4]))
        draw_along(strokes, mask == number, Stroke(1, width, 26, 4), rng)
    stroke_background(strokes, mask, rng)
    path = out / "nuclei2d_strokes.tif"
    tifffile.imwrite(path, strokes, compression="zlib", metadata=None)
    yield path


def choose_nuclei(
    image: NDArray[np.uint16], mask: NDArray[np.uint16], rng: np.random.Generator
) -> list[int]:
    """Choose one nucleus in each square: bright, dim, small, touching and ordinary ones in turn."""
    nuclei = regionprops(mask, image)  # type: ignore[no-untyped-call]
    touching = set(np.unique(mask[between(mask)]))
    kinds: list[Any] = [
        lambda n: n.intensity_mean > 110,
        lambda n: n.intensity_mean < 52 and n.area > 250,
        lambda n: n.area < 300,
        lambda n: n.label in touching,
        lambda n: n.area > 400,
    ]
    chosen = []
    for turn, (y, x) in enumerate(squares(mask.shape)):
        here = [n for n in nuclei if _amid(n.centroid, y, x) and n.area > 60]
        wanted = (kinds[turn % len(kinds) :] + kinds)[: len(kinds)]
        fitting = next(found for kind in wanted if (found := [n for n in here if kind(n)]))
        chosen.append(int(fitting[rng.integers(len(fitting))].label))
    return chosen


def _amid(centroid: tuple[float, float], y: int, x: int) -> bool:
    inner = CELL / 2 - 12
    return bool(np.abs(np.array(centroid) - (y + CELL / 2, x + CELL / 2)).max() < inner)


def stroke_background(
    strokes: NDArray[np.uint8], mask: NDArray[np.uint16], rng: np.random.Generator
) -> None:
    """Paint background: long strokes in the open, and thin ones between and along nuclei."""
    distance = room(mask == 0)
    gaps = between(mask) & (distance > 2.3) & (distance < 6)
    for turn, (y, x) in enumerate(squares(mask.shape)[::2]):
        narrow = turn % 4 in (0, 3)
        stroke = Stroke(BACKGROUND, 3, 120, 3) if narrow else Stroke(BACKGROUND, 5, 110, 9)
        places = gaps if narrow else distance > 8
        starts = np.argwhere(places[y : y + CELL, x : x + 2 * CELL]) + np.array([y, x])
        worth = np.where(gaps, 5.1, 0.1) if narrow else np.ones(mask.shape)
        for top, left in squares(mask.shape):
            square = np.s_[top : top + CELL, left : left + CELL]
            worth[square] *= 1 if (strokes[square] == BACKGROUND).sum() > 60 else 4
        draw_best(strokes, mask == 0, starts, stroke, worth, rng)


def squares(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Upper left corners of the squares that strokes are spread over."""
    return [(y, x) for y in range(0, shape[0], CELL) for x in range(0, shape[1], CELL)]


def between(mask: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Half-way between two objects: where the number of the nearest object changes."""
    nearest = ndimage.distance_transform_edt(mask == 0, return_distances=False, return_indices=True)
    owner = mask[tuple(nearest)]
    return np.asarray(ndimage.maximum_filter(owner, 3) != ndimage.minimum_filter(owner, 3))


def draw_best(
    canvas: NDArray[np.uint8],
    region: NDArray[np.bool_],
    places: NDArray[np.intp],
    stroke: Stroke,
    worth: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """Try a stroke from 20 places, clear of older ones; keep the one over the most `worth`."""
    distance = room(region & ~ndimage.binary_dilation(canvas > 0, iterations=4))
    best, most = canvas, 0.0
    for _ in range(20):
        start = places[rng.integers(len(places))]
        attempt = canvas.copy()
        draw(attempt, distance, (start[0], start[1]), rng.uniform(0, 6.28), stroke, rng)
        if (gain := float(worth[attempt != canvas].sum())) > most:
            best, most = attempt, gain
    canvas[...] = best


# -- the simulated stack --------------------------------------------------------------------------


def simulated_files(out: Path) -> Iterator[Path]:
    """Write the simulated stack, its truth, and strokes on a few planes."""
    image, truth = simulate_cells.simulate(SEED)
    rng = np.random.default_rng(SEED + 1)
    strokes = np.zeros_like(truth)
    for plane in STROKED_PLANES:
        strokes[plane] = stroke_cells(truth[plane], rng)
    channels = {"Channel": {"Name": list(simulate_cells.CHANNELS)}}
    yield write_ome(out / "two_structures.ome.tif", image, "TCZYX", channels)
    yield write_ome(out / "two_structures_truth.ome.tif", truth, "TZYX")
    yield write_ome(out / "two_structures_strokes.ome.tif", strokes, "TZYX")


def stroke_cells(truth: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Paint nuclei, vesicles and background of one plane, shape (Y, X)."""
    strokes = np.zeros_like(truth)
    for value, width, least, count in (
        (simulate_cells.NUCLEUS, 4, 150, 3),
        (simulate_cells.VESICLE, 3, 21, 7),
    ):
        bodies, number = ndimage.label(truth == value)
        sizes = np.bincount(bodies.ravel(), minlength=number + 1)
        large = [n for n in range(1, number + 1) if sizes[n] >= least]
        for body in spread(bodies, large, count, rng):
            draw_along(strokes, bodies == body, Stroke(value, width, 24, 5), rng)
    distance = room(truth == 0)
    third = truth.shape[1] // 3
    for turn in range(3):
        near = (distance > 2.5) & (distance < (4, 99, 4)[turn])
        stroke = Stroke(BACKGROUND, 3, 50, (3, 9, 3)[turn])
        places = np.argwhere(near[:, turn * third : (turn + 1) * third]) + np.array(
            [0, turn * third]
        )
        draw_best(strokes, truth == 0, places, stroke, np.ones(truth.shape), rng)
    return strokes


def spread(
    bodies: NDArray[np.int32], numbers: list[int], count: int, rng: np.random.Generator
) -> list[int]:
    """Choose `count` of the numbered bodies that lie far from each other."""
    middles = np.array(ndimage.center_of_mass(bodies > 0, bodies, numbers))
    chosen = [int(rng.integers(len(numbers)))]
    while len(chosen) < min(count, len(numbers)):
        away = np.hypot(*(middles[:, None] - middles[chosen]).transpose(2, 0, 1)).min(axis=1)
        chosen.append(int(np.argmax(away)))
    return [numbers[n] for n in chosen]


# -- the simulated picture with two kinds of objects -----------------------------------------------


def two_kinds_files(out: Path) -> Iterator[Path]:
    """Write picture, ids and kinds of nuclei, finished ones of both kinds, and strokes."""
    image, ids, kinds = simulate_nuclei.simulate(SEED)
    rng = np.random.default_rng(SEED + 2)
    cut = np.unique(np.concatenate([ids[0], ids[-1], ids[:, 0], ids[:, -1]]))
    finished, strokes = np.zeros_like(ids), np.zeros_like(kinds)
    for kind in (simulate_nuclei.PLAIN, simulate_nuclei.MARKED):
        whole = [int(n) for n in np.unique(ids[kinds == kind]) if n not in cut]
        chosen = spread(np.asarray(ids, np.int32), whole, 2 * FINISHED, rng)
        for number in chosen[:FINISHED]:
            finished[ids == number] = finished.max() + 1
        for number in chosen:
            draw_along(strokes, ids == number, Stroke(kind, 3, 20, 4), rng)
    stroke_background(strokes, ids, rng)
    size = simulate_nuclei.SPACING_UM
    for name, data, axes in (
        ("two_kinds", image, "CYX"),
        ("two_kinds_ids", ids, "YX"),
        ("two_kinds_truth", kinds, "YX"),
        ("two_kinds_objects", finished, "YX"),
        ("two_kinds_strokes", strokes, "YX"),
    ):
        names = {"Channel": {"Name": list(simulate_nuclei.CHANNELS)}} if "C" in axes else None
        yield write_ome(out / f"{name}.ome.tif", data, axes, names, (1.0, size, size))


def write_ome(
    path: Path,
    data: NDArray[Any],
    axes: str,
    extra: dict[str, Any] | None = None,
    spacing: tuple[float, float, float] = simulate_cells.SPACING,
) -> Path:
    """Write an OME-TIFF with voxel sizes and interval; the same data give the same bytes."""
    x = spacing[2]
    sizes: dict[str, Any] = {}
    for axis, size in zip("XYZ", spacing[::-1], strict=True):
        if axis in axes:
            sizes |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    if "T" in axes:
        sizes |= {"TimeIncrement": simulate_cells.INTERVAL_S, "TimeIncrementUnit": "s"}
    description: dict[str, Any] = {
        "axes": axes,
        "Name": path.name.removesuffix(".ome.tif"),
        **sizes,
        "Creator": "napari-unetseg",
        "UUID": f"urn:uuid:00000000-0000-4000-8000-{sum(path.name.encode()):012d}",
        **(extra or {}),
    }
    tifffile.imwrite(
        path,
        data,
        ome=True,
        photometric="minisblack",
        compression="zlib",
        resolution=(1e4 / x, 1e4 / x),
        resolutionunit="CENTIMETER",
        software="napari-unetseg",
        metadata=description,
    )
    return path


if __name__ == "__main__":
    main()
