"""The sample data that napari offers under File ▸ Open Sample.

Each function returns layers as napari's plugins do: a list of (data, keyword arguments, type).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetseg.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    LayerData = tuple[np.ndarray[Any, Any], dict[str, Any], str]

_PACKAGE = Path(__file__).resolve().parent
FOLDERS = (_PACKAGE / "_sample", _PACKAGE.parent / "sample_data")
"""Where sample files are looked for: in an installed package, then in a source checkout."""

CELL_PIXEL_UM = 0.107


def sample_path(name: str) -> Path:
    """Find a sample file.

    Parameters
    ----------
    name : str
        The file's name, such as ``nuclei2d.tif``; ``sample_data/README.md`` lists the files.

    Returns
    -------
    pathlib.Path
        The file, in the installed package or in the source checkout.

    Raises
    ------
    UserError
        There is no such file.
    """
    for folder in FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"The sample file {name} is missing; reinstall napari-unetseg, or run it from a "
        "complete checkout."
    )


def nuclei2d() -> list[LayerData]:
    """Fluorescence nuclei, uint16 (Y, X), and strokes on them, uint8 (Y, X).

    Real data of the 2018 Data Science Bowl (Caicedo et al. 2019, doi:10.1038/s41592-019-0612-7);
    the size of a pixel is not known.
    """
    image, strokes = _read("nuclei2d.tif"), _read("nuclei2d_strokes.tif")
    return [
        (image, {"name": "nuclei", "colormap": "gray"}, "image"),
        _annotations("nuclei", strokes, ["nucleus"]),
    ]


def nuclei2d_objects() -> list[LayerData]:
    """The nuclei of `nuclei2d`, and the number of each one, uint16 (Y, X): full instance masks."""
    image, ids = _read("nuclei2d.tif"), _read("nuclei2d_mask.tif")
    return [
        (image, {"name": "nuclei", "colormap": "gray"}, "image"),
        _objects("nuclei", ids, "instances"),
    ]


def two_kinds() -> list[LayerData]:
    """Two kinds of nuclei in a simulated picture: two channels, strokes and finished objects.

    Each is (Y, X) with sizes. Every finished object has a stroke of its kind in it.
    """
    image, grid, channels = _read_ome("two_kinds.ome.tif")
    structures = ["nucleus", "marked nucleus"]
    return [
        *_channels("two kinds", image, channels, grid),
        _annotations("two kinds", _read("two_kinds_strokes.ome.tif"), structures, grid),
        _objects("two kinds", _read("two_kinds_objects.ome.tif"), "finished", grid),
    ]


def two_structures() -> list[LayerData]:
    """Cells in a simulated time lapse: two channels and strokes, each (T, Z, Y, X), with sizes."""
    stack, grid, channels = _read_ome("two_structures.ome.tif")
    strokes = _read("two_structures_strokes.ome.tif")
    return [
        *_channels("cells", stack.swapaxes(0, 1), channels, grid),
        _annotations("cells", strokes, ["nucleus", "vesicle"], grid),
    ]


def cell() -> list[LayerData]:
    """One cell in quantitative phase contrast, uint8 (Y, X), 0.107 µm a pixel.

    A picture of scikit-image (Müller et al. 2018, doi:10.1364/OE.26.010729).
    """
    grid = {
        "scale": (CELL_PIXEL_UM, CELL_PIXEL_UM),
        "units": ("um", "um"),
        "axis_labels": ("y", "x"),
    }
    return [(_of_skimage("cell"), {"name": "cell", "colormap": "gray", **grid}, "image")]


def immunohistochemistry() -> list[LayerData]:
    """Colonic glands stained with DAB and hematoxylin, RGB uint8 (Y, X, 3).

    A picture of scikit-image; the size of a pixel is not known.
    """
    image = _of_skimage("immunohistochemistry")
    return [(image, {"name": "colonic glands", "rgb": True}, "image")]


def _channels(
    image: str, data: np.ndarray[Any, Any], names: list[str], grid: dict[str, Any]
) -> list[LayerData]:
    """Make an image layer of each channel, which is the first axis of `data`."""
    layers: list[LayerData] = []
    for channel, name, colormap in zip(data, names, ("bop blue", "bop orange"), strict=True):
        options = {
            "name": f"{image} · {name}",
            "colormap": colormap,
            "blending": "additive",
            "contrast_limits": (int(channel.min()), int(channel.max())),
            **grid,
        }
        layers.append((channel, options, "image"))
    return layers


def _objects(
    image: str, ids: np.ndarray[Any, Any], kind: str, grid: dict[str, Any] | None = None
) -> LayerData:
    """Make the layer of an image's numbered objects; `kind` says what 0 means."""
    metadata = {"napari_unetseg": {"kind": kind}}
    return ids, {"name": f"{image} · objects", "metadata": metadata, **(grid or {})}, "labels"


def _annotations(
    image: str,
    strokes: np.ndarray[Any, Any],
    structures: list[str],
    grid: dict[str, Any] | None = None,
) -> LayerData:
    """Make the annotation layer of an image; `structures` name the numbers from 1 on."""
    numbers = [0, *range(1, len(structures) + 1), 255]
    options = {
        "name": f"{image} · annotations",
        "features": {"index": numbers, "name": ["not labelled", *structures, "background"]},
        "metadata": {"napari_unetseg": {"kind": "strokes"}},
        **(grid or {}),
    }
    return strokes, options, "labels"


def _read(name: str) -> np.ndarray[Any, Any]:
    import tifffile

    return tifffile.imread(sample_path(name))


def _read_ome(name: str) -> tuple[np.ndarray[Any, Any], dict[str, Any], list[str]]:
    """Read an OME-TIFF, how napari places its channels, and their names."""
    import tifffile

    with tifffile.TiffFile(sample_path(name)) as tiff:
        data = tiff.asarray()
        pixels = tifffile.xml2dict(tiff.ome_metadata or "")["OME"]["Image"]["Pixels"]
    sizes = {axis: (pixels.get(f"PhysicalSize{axis}"), "um") for axis in "ZYX"}
    sizes |= {"T": (pixels.get("TimeIncrement"), "s")}
    axes = [axis for axis in "TZYX" if sizes[axis][0] is not None]
    grid = {
        "scale": tuple(sizes[axis][0] for axis in axes),
        "units": tuple(sizes[axis][1] for axis in axes),
        "axis_labels": tuple(axis.lower() for axis in axes),
    }
    return data, grid, [channel["Name"] for channel in pixels["Channel"]]


def _of_skimage(name: str) -> np.ndarray[Any, Any]:
    from skimage import data

    load: Callable[[], np.ndarray[Any, Any]] = getattr(data, name)
    try:
        return load()
    except (ImportError, OSError, ValueError) as error:  # a build of scikit-image without it
        raise UserError(
            f"scikit-image has no picture {name!r} here; install scikit-image with pip."
        ) from error
