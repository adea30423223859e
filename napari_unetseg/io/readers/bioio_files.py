"""Microscope vendors' formats, read by installed bioio plugins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.io.axes import arranged, letters_of
from napari_unetseg.io.readers.lazy_array import Key, LazyArray, reading
from napari_unetseg.io.scenes import choose_scene
from napari_unetseg.io.units import PIXEL, Sizes, unit_name

_READERS = {
    ".nd2": "bioio-nd2",
    ".lif": "bioio-lif",
    ".dv": "bioio-dv",
    ".r3d": "bioio-dv",
    ".czi": "bioio-czi",
    ".sldy": "bioio-sldy",
    **dict.fromkeys((".oib", ".oif", ".oir", ".vsi", ".ims", ".mvd2", ".zvi"), "bioio-bioformats"),
}
VENDOR_SUFFIXES = tuple(_READERS)


@dataclass(frozen=True, slots=True)
class _Source:
    """One image of a vendor's file; ``stamp`` identifies the version of the file."""

    path: Path
    stamp: tuple[int, int]
    scene: str

    def read(self, index: tuple[int, ...], region: Key, /) -> np.ndarray:
        """Read a region of the plane at ``index`` (T, C, Z)."""
        array = _opened(self).get_image_dask_data()[(*index, *region)]
        return np.asarray(array.compute(scheduler="synchronous"))


@lru_cache(maxsize=16)
def _opened(source: _Source) -> Any:
    """The open file, set to one of its images."""
    from bioio import BioImage

    module = import_module(_READERS[source.path.suffix.lower()].replace("-", "_"))
    image = BioImage(source.path, reader=module.Reader)
    if source.scene:
        image.set_scene(source.scene)
    return image


def open_vendor(path: Path, scene: str, axes: str | None, given: Sizes, name: str) -> Stack:
    """Open an image of a vendor's file; planes are read on access.

    Raises
    ------
    UserError
        The reader that the message names is not installed; several images and none is named, or
        none of that name; the file is damaged.
    """
    package = _READERS[path.suffix.lower()]
    if find_spec("bioio") is None or find_spec(package.replace("-", "_")) is None:
        raise UserError(
            f"{path.name} needs the package {package}; install it with "
            f"'pip install bioio {package}', or save the image as OME-TIFF."
        )
    with reading(path):
        status = path.stat()
        source = _Source(path, (status.st_mtime_ns, status.st_size), "")
        scenes = tuple(str(s) for s in _opened(source).scenes)
        if len(scenes) > 1 or scene:
            source = replace(source, scene=scenes[choose_scene(path, scenes, scene)])
        image = _opened(source)
        array = image.get_image_dask_data()
        letters = letters_of(axes, str(image.dims.order), tuple(array.shape), path)
        sizes = {**_sizes(image), **given}
        channels = tuple(str(c) for c in image.channel_names or ())
    order = arranged(letters, tuple(array.shape))
    kept = "".join(letters[i] for i in order)
    lead = letters.index("Y")
    shape = tuple(int(array.shape[i]) for i in order)
    data = LazyArray(source, shape, array.dtype, tuple(i for i in order if i < lead), lead)
    return Stack(
        data,
        kept,
        tuple(sizes.get(a, (1.0, PIXEL))[0] for a in kept),
        tuple(sizes.get(a, (1.0, PIXEL))[1] for a in kept),
        channels,
        name,
    )


def _sizes(image: Any) -> Sizes:
    """Spacing and unit of axes; lengths without a unit are micrometres, as in bioio."""
    scale, properties = image.scale, image.dimension_properties
    sizes: dict[str, tuple[float, str]] = {}
    for axis in "TZYX":
        size = getattr(scale, axis, None)
        unit = getattr(getattr(properties, axis, None), "unit", None)
        if isinstance(size, int | float) and 0 < size < float("inf"):
            sizes[axis] = (
                float(size),
                unit_name(str(unit) if unit else "s" if axis == "T" else "um"),
            )
    return sizes
