"""File series as a stack: a folder, or a pattern such as ``img_t*_z*.tif``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.io.file_names import same_name
from napari_unetseg.io.readers.lazy_array import Key, PlaneArray, reading

CHECKED = 500
"""Number of files that are checked when a series is opened; the others are checked when read."""

Open = Callable[[Path], Stack]


@dataclass(frozen=True, slots=True)
class _Files:
    """Files in grid order, and the axis letters from the pattern."""

    paths: tuple[str, ...]
    counts: tuple[int, ...]
    letters: str


class SeriesArray(PlaneArray):
    """Arrays of one shape and dtype in files, as one array; a file is opened on access.

    Parameters
    ----------
    paths
        The files in the order of the leading axes.
    counts
        Length of each leading axis.
    first
        The stack in the first file; the others must have its shape and dtype.
    open_file
        Opens one of them.
    """

    def __init__(
        self, paths: Sequence[str], counts: tuple[int, ...], first: Any, open_file: Open
    ) -> None:
        self._paths, self._counts, self._open = tuple(paths), counts, open_file
        self.leading = len(counts)
        self._inner = tuple(int(n) for n in first.shape)
        self.shape = (*counts, *self._inner)
        self.dtype = np.dtype(first.dtype)

    @property
    def path(self) -> Path:
        """The first file."""
        return Path(self._paths[0])

    def _read(self, index: tuple[int, ...], region: Key) -> np.ndarray:
        number = int(np.ravel_multi_index(index, self._counts))
        return np.asarray(self.file(number)[region])

    def file(self, number: int) -> Any:
        """The array in a file.

        Raises
        ------
        UserError
            The file cannot be opened, or has another shape or dtype than the first one.
        """
        path = Path(self._paths[number])
        data = _opened(self._open, path, _stamp(path))
        if tuple(data.shape) != self._inner or np.dtype(data.dtype) != self.dtype:
            raise UserError(
                f"{path} holds {tuple(data.shape)} voxels of type {data.dtype}, but "
                f"{Path(self._paths[0]).name} {self._inner} of {self.dtype}; all files of a "
                "series must have the same shape and type, so remove it."
            )
        return data


@lru_cache(maxsize=64)
def _opened(open_file: Open, path: Path, stamp: tuple[int, int]) -> Any:
    del stamp  # a file that was saved again is reopened
    return open_file(path).data


def _stamp(path: Path) -> tuple[int, int]:
    with reading(path):
        status = path.stat()
    return status.st_mtime_ns, status.st_size


def is_pattern(path: Path) -> bool:
    """Whether a path stands for several files: its name contains a ``*``."""
    return "*" in path.name and not path.exists()


def series_name(path: Path) -> str:
    """The name of a series: its folder's name, or the pattern without the stars."""
    stem = path.name.split(".")[0] if "*" in path.name else path.name
    return re.sub(r"[ _.-]*[tzcTZC]?\*", "", stem).strip(" _.-") or path.parent.name or "series"


def open_series(path: Path, suffixes: Sequence[str], open_file: Open, axes: str | None) -> Stack:
    """Open the files of a folder, or those that a pattern matches, as one stack.

    The files are in natural order (2 before 10). Each star of a pattern is an axis, named by the
    letter t, z or c before it; without a letter, and for a folder, it is Z, or T if the files are
    volumes.

    Raises
    ------
    UserError
        There is no file, shapes or dtypes differ, or a file of the pattern's grid is missing.
    """
    found = _of_folder(path, suffixes) if path.is_dir() else _of_pattern(path)
    first = open_file(Path(found.paths[0]))
    data = SeriesArray(found.paths, found.counts, first.data, open_file)
    for number in range(1, min(len(found.paths), CHECKED)):
        data.file(number)
    letters = _named(found.letters, first.axes) + first.axes
    if axes is not None:
        letters = axes.upper()
    n = len(found.counts)
    fresh = letters[n:] == first.axes
    return Stack(
        data,
        letters,
        (*(1.0,) * n, *first.spacing) if fresh else (),
        (*("pixel",) * n, *first.units) if fresh else (),
        first.channels if "C" not in letters[:n] else (),
        series_name(path),
        notes=(*first.notes, *_gaps(found)),
    )


def _of_folder(folder: Path, suffixes: Sequence[str]) -> _Files:
    try:
        entries = [f for f in folder.iterdir() if not f.name.startswith(".") and f.is_file()]
    except OSError as error:
        raise UserError(f"No permission to read {folder}; change its permissions.") from error
    files = [f for f in entries if f.suffix.lower() in suffixes]
    kinds = sorted({f.suffix.lower() for f in files})
    if not files:
        raise UserError(f"{folder} contains no image; choose a file or another folder.")
    if len(kinds) > 1:
        raise UserError(
            f"{folder} contains {' and '.join(kinds)} files; give a pattern for the files of "
            f"one stack, such as {folder.name}/*{kinds[0]}."
        )
    paths = tuple(str(f) for f in sorted(files, key=lambda f: _natural(f.name)))
    return _Files(paths, (len(paths),), "?")


def _of_pattern(pattern: Path) -> _Files:
    pieces = same_name(pattern.name).split("*")
    matched = re.compile("(.*?)".join(map(re.escape, pieces)), re.DOTALL)
    letters = "".join(_letter(piece) for piece in pieces[:-1])
    folder = pattern.parent
    try:
        names = [f.name for f in folder.iterdir() if f.is_file()]
    except OSError as error:
        raise UserError(f"{folder} cannot be read; check the name.") from error
    found = {m.groups(): n for n in names if (m := matched.fullmatch(same_name(n)))}
    if not found:
        raise UserError(f"No file matches {pattern}; check the pattern.")
    values = [sorted(set(column), key=_natural) for column in zip(*found, strict=True)]
    paths = []
    for combined in itertools.product(*values):
        if combined not in found:
            parts = itertools.chain(*itertools.zip_longest(pieces, combined, fillvalue=""))
            raise UserError(f"{folder / ''.join(parts)} is missing from the series; add it.")
        paths.append(str(folder / found[combined]))
    return _Files(tuple(paths), tuple(len(v) for v in values), letters)


def _gaps(files: _Files) -> list[str]:
    """Describe the missing files along each axis, where the numbers in names have gaps."""
    grid = np.array([Path(path).name for path in files.paths], object).reshape(files.counts)
    lines = (np.moveaxis(grid, n, 0).reshape(len_, -1)[:, 0] for n, len_ in enumerate(files.counts))
    return [
        f"{name} is missing between existing files; the existing ones are opened as evenly spaced."
        for line in lines
        if (name := _left_out(list(line)))
    ]


def _left_out(names: Sequence[str]) -> str:
    """The first missing file in a sequence of names, which differ in one number."""
    parts = [re.split(r"(\d+)", name) for name in names]
    if len({len(p) for p in parts}) > 1:
        return ""
    varying = [n for n, column in enumerate(zip(*parts, strict=True)) if len(set(column)) > 1]
    if len(varying) != 1 or not varying[0] % 2:
        return ""
    at = varying[0]
    numbers = [int(p[at]) for p in parts]
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    usual = min(steps)
    if usual <= 0 or any(step % usual for step in steps) or max(steps) == usual:
        return ""
    before = parts[next(n for n, step in enumerate(steps) if step > usual)]
    number = str(int(before[at]) + usual).zfill(len(before[at]))
    return "".join((*before[:at], number, *before[at + 1 :]))


def _letter(before: str) -> str:
    """The axis named by the text before a star; ``?`` for none."""
    found = re.search(r"(?:^|[^a-z])([tzc])$", before, re.IGNORECASE)
    return found[1].upper() if found else "?"


def _named(letters: str, inner: str) -> str:
    """Give axes without a name a free one."""
    spare = [a for a in ("TPQ" if "Z" in inner + letters else "ZTPQ") if a not in inner + letters]
    fresh = "".join(spare[: letters.count("?")][::-1])
    named = iter(fresh)
    return "".join(next(named, "?") if a == "?" else a for a in letters)


def _natural(text: str) -> list[Any]:
    """A sort key for natural order of numbers in text."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(p), p) if p.isdigit() else (1, 0, p.lower()) for p in parts]
