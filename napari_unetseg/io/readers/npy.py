"""Arrays in ``.npy`` files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.lib import format as npy_format

from napari_unetseg.core.errors import UserError


def open_npy(path: Path) -> np.ndarray:
    """Open an array in a file; its values are read on access.

    Raises
    ------
    UserError
        It holds Python objects, which can run code when unpickled.
    ValueError
        The file is damaged.
    """
    if _has_objects(path):
        raise UserError(
            f"{path} holds Python objects, like cellpose's _seg.npy; they can run code and are "
            "not opened: save the masks as TIFF or PNG."
        )
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _has_objects(path: Path) -> bool:
    """Whether the header declares objects; NumPy's own error can only be told by its text."""
    read = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
    with suppress(ValueError), path.open("rb") as file:
        version = npy_format.read_magic(file)
        return version in read and read[version](file)[2].hasobject
    return False
