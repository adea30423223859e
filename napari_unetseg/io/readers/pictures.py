"""PNG, JPEG and BMP pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.io.readers.lazy_array import Key, LazyArray, check_size, reading
from napari_unetseg.io.units import PIXEL, PRINT_PIXEL

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")

_GREY = {
    "1": "L",
    "L": "L",
    "LA": "L",
    "La": "L",
    "I;16": "I;16",
    "I;16B": "I;16",
    "I": "I",
    "F": "F",
}
_DTYPES = dict.fromkeys(("L", "LA", "P", "RGB", "RGBA"), "uint8") | {
    "I;16": "uint16",
    "I": "int32",
    "F": "float32",
    "1": "bool",
}


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """Header of a picture; ``spacing`` is the size of a pixel in µm (Y, X)."""

    shape: tuple[int, ...]
    dtype: np.dtype
    axes: str
    spacing: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class PictureSource:
    """The pixels of a picture: a single plane. ``mode`` is Pillow's name of the layout."""

    path: Path
    stamp: tuple[int, int]
    mode: str

    def read(self, _index: tuple[int, ...], region: Key, /) -> np.ndarray:
        """Decode the picture and cut the region; the index is empty."""
        # for a file Pillow would allocate as many bytes as a damaged header declares
        with Image.open(io.BytesIO(self.path.read_bytes())) as image:
            if _deep_colour(image):
                array = imagecodecs.png_decode(self.path.read_bytes())
                array = array[..., 0] if image.mode == "LA" != self.mode else array
            elif self.mode in (image.mode, "I;16"):
                array = np.asarray(image)
            else:
                array = np.asarray(image.convert(self.mode))
        return np.asarray(array[region])


def open_picture(path: Path, axes: str | None, name: str, *, labels: bool = False) -> Stack:
    """Open a picture without decoding it.

    Parameters
    ----------
    path, axes, name
        The file, its axis letters, and the name of the stack.
    labels
        Keep the indices of a palette picture as labels; otherwise they are converted to colours.
        Alpha beside grey is kept too, since the mask may be in it.

    Raises
    ------
    UserError
        Not a picture, damaged, too large, or the axes do not fit.
    """
    with reading(path):
        status = path.stat()
        facts, mode = _facts(path, labels=labels)
    source = PictureSource(path, (status.st_mtime_ns, status.st_size), mode)
    letters = axes or facts.axes
    sizes = dict(zip("YX", facts.spacing or (), strict=False))
    stack = Stack(
        LazyArray(source, facts.shape, facts.dtype),
        letters,
        tuple(sizes.get(a, 1.0) for a in letters),
        tuple("um" if a in sizes else PIXEL for a in letters),
        name=name,
    )
    colours = ("red", "green", "blue") if stack.n_channels > 2 else ()
    return replace(stack, channels=colours or stack.channels)


def _facts(path: Path, *, labels: bool) -> tuple[PictureFacts, str]:
    """Read the header, and select the layout for a `PictureSource`."""
    try:
        image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large for a picture; save it as TIFF.") from error
    with image:
        if image.format == "PNG" and (count := getattr(image, "n_frames", 1)) > 1:
            raise UserError(
                f"{path} is an animation of {count} pictures; save them as a TIFF stack, or "
                "each as a separate file."
            )
        mode = _wanted(image, labels)
        dtype = np.dtype("uint16" if _deep_colour(image) else _DTYPES[mode])
        samples = (len(mode),) if mode in ("LA", "RGB", "RGBA") else ()
        shape = (image.height, image.width, *samples)
        check_size(path, int(np.prod(shape)) * dtype.itemsize)
        return PictureFacts(shape, dtype, "YXS"[: len(shape)], _spacing(image)), mode


def _wanted(image: Image.Image, labels: bool) -> str:
    """Select the layout for reading a picture."""
    if labels and image.mode in ("1", "LA", "P"):
        return image.mode
    if image.mode == "P":
        colours = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
        return "L" if (colours == colours[:, :1]).all() else "RGB"
    return _GREY.get(image.mode, "RGBA" if image.mode == "RGBA" else "RGB")


def _deep_colour(image: Image.Image) -> bool:
    """Whether a PNG has several samples of 16 bits, which Pillow would reduce to 8."""
    tiles = getattr(image, "tile", ())
    return image.mode in ("RGB", "RGBA", "LA") and any(";16B" in str(t.args) for t in tiles)


def _spacing(image: Image.Image) -> tuple[float, float] | None:
    """Size of a pixel (Y, X) in µm, unless it is a print resolution."""
    dpi = image.info.get("dpi")
    if not dpi or min(dpi) <= 0:
        return None
    y, x = 25_400.0 / float(dpi[1]), 25_400.0 / float(dpi[0])
    return (y, x) if max(y, x) < PRINT_PIXEL else None
