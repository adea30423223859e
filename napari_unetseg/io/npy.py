"""Arrays in ``.npy`` files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_unetseg.core.errors import UserError

__all__ = ["open_npy"]


def open_npy(path: Path) -> np.ndarray:
    """An array in a file; its pixels are read when they are needed.

    Raises
    ------
    UserError
        It holds Python objects, which can run code when they are read.
    ValueError
        It is damaged.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "Python objects" not in str(error):
            raise
        raise UserError(
            f"{path} holds Python objects, as cellpose's _seg.npy does, which are not opened since "
            "they can run code; save its masks as TIFF or PNG."
        ) from error
    return array
