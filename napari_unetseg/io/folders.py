"""Paired files and folders of images and labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.core.samples import Pair
from napari_unetseg.io.images import SUFFIXES, open_labels, open_stack, stem_of
from napari_unetseg.io.units import per_centimetre
from napari_unetseg.io.vendors import VENDOR_SUFFIXES
from napari_unetseg.io.zarr_nodes import is_zarr

if TYPE_CHECKING:
    from napari_unetseg.core.image import Stack

__all__ = ["FolderDataset", "FolderPairs", "find_pairs", "images_by_stem"]

READ = (*SUFFIXES, *VENDOR_SUFFIXES)
SAME = 0.01
"""Pixel sizes that differ by less than this part are one, rounded in another way."""


@dataclass(frozen=True, slots=True)
class FolderPairs:
    """The annotated images of two folders.

    Attributes
    ----------
    pairs
        In the order of their stems.
    skipped
        Images without labels.
    unused
        Labels without an image.
    other_sizes
        A sentence where labels say other pixel sizes than their image; empty otherwise.
    """

    pairs: list[Pair]
    skipped: list[Path]
    unused: list[Path]
    other_sizes: str = ""


def images_by_stem(paths: Iterable[str | Path]) -> dict[str, Path]:
    """Map the stems of image files to their paths, sorted; folders stand for their files.

    A Zarr store is an image, not a folder. Hidden files, files of other formats in a folder, and
    folders in a folder are left out.

    Raises
    ------
    UserError
        A path does not exist, a folder holds no image, or two files have the same stem.
    """
    files: list[Path] = []
    for path in (Path(p).expanduser() for p in paths):
        found = _of_folder(path) if _is_folder(path) else [path]
        if not found:
            raise UserError(f"{path} holds no image; choose a folder with TIFF, PNG or JPEG files.")
        if not path.exists():
            raise UserError(f"{path} does not exist; check the name.")
        files += found
    by_stem: dict[str, Path] = {}
    for file in sorted(files, key=lambda f: (stem_of(f), str(f))):
        other = by_stem.setdefault(stem_of(file), file)
        if other is not file:
            raise UserError(
                f"{other} and {file} have the same stem, so that their labels and results would "
                "have the same name; rename one or take it out."
            )
    return by_stem


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not is_zarr(path)


def _of_folder(folder: Path) -> list[Path]:
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} may not be read; change its permissions.") from error
    return [
        f
        for f in entries
        if not f.name.startswith(".") and ((f.suffix.lower() in READ and f.is_file()) or is_zarr(f))
    ]


def find_pairs(
    images: str | Path,
    labels: str | Path,
    kind: LabelKind | str = LabelKind.FULL,
    ignore: int | None = None,
    *,
    axes: str | None = None,
    spacing: str | Sequence[float] | None = None,
) -> FolderPairs:
    """Pair images with their labels: two files, or files of the same stem in two folders.

    Parameters
    ----------
    images, labels
        A file or a folder each. Of a file and a folder, the file's stem is looked for in the
        folder. Labels may lie in the OME-Zarr image itself.
    kind
        What the numbers in the labels mean.
    ignore
        A value of full masks or instances that means "not labelled".
    axes, spacing
        Of the image files, where they say them wrong; see `open_stack`.

    Returns
    -------
    FolderPairs
        Opened lazily; images without labels are left out and listed.

    Raises
    ------
    UserError
        There is no pair, a path does not exist, stems are ambiguous, a file cannot be opened, or
        the shapes of an image and its labels differ.
    """
    images, labels, kind = Path(images).expanduser(), Path(labels).expanduser(), LabelKind(kind)
    folders = _is_folder(images) and _is_folder(labels)
    if folders and images.resolve() == labels.resolve():
        raise UserError(f"{images} was given for images and for labels; put them in two folders.")
    first, second = images_by_stem([images]), images_by_stem([labels])
    if len(first) == len(second) == 1 and not _is_folder(images) and not _is_folder(labels):
        stem = next(iter(first))
        second = {stem: labels}
    both = [stem for stem in first if stem in second]
    if not both:
        raise UserError(
            f"No image in {images} has labels in {labels}: they need the same name without the "
            f"suffix, but there are {_examples(first)} and {_examples(second)}; rename one of them."
        )
    pairs = [_pair(first[s], second[s], kind, ignore, axes, spacing) for s in both]
    sized = zip((p.image for p in pairs), (second[s] for s in both), strict=True)
    return FolderPairs(
        pairs,
        [path for stem, path in first.items() if stem not in second],
        [path for stem, path in second.items() if stem not in first],
        _other_sizes(sized) if spacing is None else "",
    )


def _pair(
    image: Path,
    labels: Path,
    kind: LabelKind,
    ignore: int | None,
    axes: str | None,
    spacing: str | Sequence[float] | None,
) -> Pair:
    stack = open_stack(image, axes=axes, spacing=spacing)
    return Pair(stack, open_labels(labels, stack.grid_shape), kind, ignore=ignore)


def _other_sizes(pairs: Iterable[tuple[Stack, Path]]) -> str:
    """That some labels say other pixel sizes than their image; labels without any are fine."""
    found = [text for image, labels in pairs if (text := _differing(image, labels))]
    more = f", and {len(found) - 1} more so" if len(found) > 1 else ""
    return (
        f"{found[0]}{more}; they are paired pixel by pixel, so check that they belong together."
        if found
        else ""
    )


def _differing(image: Stack, labels: Path) -> str:
    """The pixel sizes of an image and of its labels, if both are known and are not the same."""
    if _is_folder(labels):
        return ""
    try:
        other = open_stack(labels)
    except UserError:  # said when they are opened as labels, or no image
        return ""
    sizes = [_lengths(stack) for stack in (other, image)]
    both = [axis for axis in "ZYX" if axis in sizes[0] and axis in sizes[1]]
    if all(math.isclose(sizes[0][axis], sizes[1][axis], rel_tol=SAME) for axis in both):
        return ""
    its, the = (" × ".join(f"{size[axis]:.4g}" for axis in both) for size in sizes)
    return f"{labels} has pixels of {its} µm, its image of {the} µm"


def _lengths(stack: Stack) -> dict[str, float]:
    """Pixel sizes in micrometres along the axes where they are known."""
    sizes = zip(stack.grid_axes, stack.grid_spacing, stack.grid_units, strict=True)
    counts = {axis: per_centimetre(size, unit) for axis, size, unit in sizes}
    return {axis: 1e4 / count for axis, count in counts.items() if count is not None}


def _examples(stems: Iterable[str]) -> str:
    names = list(stems)
    return ", ".join(repr(n) for n in names[:2]) + (", …" if len(names) > 2 else "")


class FolderDataset(Sequence[Pair]):
    """Images and labels of two folders, paired by stem and opened lazily.

    Parameters
    ----------
    images, labels
        A file or a folder each.
    kind
        ``full`` (0 background, 1 to 254 structures; also masks of 0 and 255), ``strokes`` (0 not
        labelled, 255 background) or ``instances`` (every number an object).
    ignore
        A value that means "not labelled".

    Examples
    --------
    >>> pairs = FolderDataset("images", "masks")  # doctest: +SKIP
    >>> model = napari_unetseg.train(pairs)  # doctest: +SKIP
    """

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        kind: LabelKind | str = LabelKind.FULL,
        ignore: int | None = None,
    ) -> None:
        found = find_pairs(images, labels, kind, ignore)
        self._pairs = found.pairs
        self.skipped = found.skipped
        """Images without labels."""
        self.other_sizes = found.other_sizes
        """A sentence where labels say other pixel sizes than their image; empty otherwise."""

    def __len__(self) -> int:
        return len(self._pairs)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        return self._pairs[index]

    def __repr__(self) -> str:
        return f"FolderDataset({len(self)} pairs, {len(self.skipped)} images without labels)"
