"""Arrays for results: in memory while they are small, in a temporary file when they are not."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from napari_unetseg.core.errors import UserError

__all__ = ["scratch_array"]

IN_MEMORY = 2**29
"""Larger arrays go to a temporary file."""
PIECE = 2**24


@contextmanager
def scratch_array(folder: str | Path, shape: tuple[int, ...], dtype: Any) -> Iterator[np.ndarray]:
    """Yield an array of zeros, writable, that is gone afterwards.

    Parameters
    ----------
    folder
        Where the temporary file of an array of more than 512 MB goes; best the folder of the
        result. It has no name there and vanishes with the program, however that ends.
    shape, dtype
        Of the array.

    Raises
    ------
    UserError
        The disk has no room for it, or the folder cannot be written.
    """
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes <= IN_MEMORY:
        yield np.zeros(shape, dtype)
        return
    with _temporary(Path(folder), nbytes) as file:
        yield np.memmap(file, dtype, "r+", shape=shape)


def _temporary(folder: Path, nbytes: int) -> IO[bytes]:
    """Open a file without a name, with its room reserved."""
    file = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=folder)
        _reserve(file, nbytes)
    except OSError as error:
        if file is not None:
            file.close()
        raise UserError(
            f"{folder} has no room for the {nbytes / 1e9:.1f} GB of a result while it is made "
            f"({(error.strerror or str(error)).lower()}); free some space or choose another folder."
        ) from error
    return file


def _reserve(file: IO[bytes], nbytes: int) -> None:
    """Take the room on the disk now: a mapped file that finds none later kills the program."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, nbytes)
        return
    zeros = bytes(PIECE)
    for start in range(0, nbytes, PIECE):
        file.write(zeros[: nbytes - start])
    file.flush()
