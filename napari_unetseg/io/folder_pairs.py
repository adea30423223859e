"""Pairing of image and label files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, overload

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import IGNORE_INDEX, LabelKind
from napari_unetseg.core.lengths import micrometres
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.io.file_names import as_stored, partners, same_name
from napari_unetseg.io.open_image import (
    SUFFIXES,
    contents_of,
    file_of,
    open_stack,
    read_labels,
    stem_of,
)
from napari_unetseg.io.readers.bioio_files import VENDOR_SUFFIXES
from napari_unetseg.io.readers.missing_planes import MissingPlanes
from napari_unetseg.io.readers.zarr_nodes import is_zarr

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack

READ = (*SUFFIXES, *VENDOR_SUFFIXES)
SAME = 0.01
"""Pixel sizes with a smaller relative difference are equal up to rounding."""


@dataclass(frozen=True, slots=True)
class FolderPairs:
    """The annotated images of two folders."""

    pairs: list[AnnotatedImage]
    """In the order of their stems."""
    skipped: list[Path]
    """Images without labels."""
    unused: list[Path]
    """Labels without an image."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how files were paired and read, a sentence each; for example labels
    with other pixel sizes than their image."""


def images_by_stem(paths: Iterable[str | Path]) -> dict[str, Path]:
    """Map the stems of image files to their paths, sorted; folders are listed.

    A Zarr store is an image, not a folder. Hidden files, files of other formats in a folder, and
    folders in a folder are skipped.

    Raises
    ------
    UserError
        A path does not exist, a folder holds no image, or two files have the same stem.
    """
    files: list[Path] = []
    for path in (as_stored(Path(p).expanduser()) for p in paths):
        found = _of_folder(path) if _is_folder(path) else [path]
        if not found:
            raise UserError(_empty(path))
        if not file_of(path).exists():
            raise UserError(f"{path} does not exist; check the name.")
        files += found
    by_stem: dict[str, Path] = {}
    by_name: dict[str, Path] = {}
    for file in sorted(files, key=lambda f: (stem_of(f), str(f))):
        other = by_name.setdefault(same_name(stem_of(file)), file)
        if other is not file:
            spelt = "" if stem_of(other) == stem_of(file) else " (with differently encoded accents)"
            raise UserError(
                f"{other} and {file} have the same stem{spelt}, so their labels and results "
                "would have the same name; rename or remove one of them."
            )
        by_stem[stem_of(file)] = file
    return by_stem


def _empty(folder: Path) -> str:
    """Why a folder contains no image."""
    inside = sorted(f for f in folder.iterdir() if _is_folder(f) and not f.name.startswith("."))
    filled = next((f for f in inside if _of_folder(f)), None)
    if filled is not None:
        return f"{folder} contains folders but no image; choose one of them, such as {filled}."
    return f"{folder} contains no image; choose a folder with TIFF, PNG or JPEG files."


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not is_zarr(path)


def _of_folder(folder: Path) -> list[Path]:
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise UserError(f"No permission to read {folder}; change its permissions.") from error
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
    threshold: float | None = None,
    axes: str | None = None,
    spacing: str | Sequence[float] | None = None,
    series: str | int | None = None,
    missing_planes: MissingPlanes | str = MissingPlanes.REFUSE,
) -> FolderPairs:
    """Pair images with their labels: two files, or files of the same stem in two folders.

    A stem without a partner is paired with one that differs in case or a common suffix if that is
    unambiguous, such as ``a_mask.png`` or ``a_cp_masks.tif`` for ``a.tif``; see `partners`.

    Parameters
    ----------
    images, labels
        A file or a folder each. For a file and a folder, the file's stem is searched in the folder.
        Labels may be inside the OME-Zarr image itself.
    kind
        The kind of the labels.
    ignore
        A value that means "not labelled".
    threshold
        Values above it are structure 1, all others background: for masks whose edges were blurred
        by JPEG or by resizing, and for probability maps.
    axes, spacing
        Override those of the image files; see `open_stack`. Labels have the same axes except
        channels.
    series, missing_planes
        As for `open_stack`; ``series`` also applies to labels if their file holds several images.

    Returns
    -------
    FolderPairs
        Opened lazily; images without labels are skipped and listed.

    Raises
    ------
    UserError
        There is no pair, a path does not exist, stems are ambiguous, a file cannot be opened, or
        the shapes of an image and its labels differ.
    """
    images, labels = (as_stored(Path(path).expanduser()) for path in (images, labels))
    kind = LabelKind.of(kind)
    if threshold is not None and kind is not LabelKind.FULL:
        raise UserError(f"A threshold makes full masks, not {kind}; leave out one of the two.")
    first, second, both = _by_stem(images, labels)
    how = partial(
        _pair,
        kind=kind,
        ignore=ignore,
        threshold=threshold,
        axes=axes,
        spacing=spacing,
        series=series,
        missing_planes=MissingPlanes(missing_planes),
    )
    found = [how(first[i], second[s]) for i, s in both.items()]
    notes = [note for pair, stored in found for note in (*pair.image.notes, *stored.notes)]
    if spacing is None:
        notes += _other_sizes(found, [second[stem] for stem in both.values()])
    alike = [(first[i], second[s]) for i, s in both.items() if same_name(i) != same_name(s)]
    used = set(both.values())
    return FolderPairs(
        [pair for pair, _ in found],
        [path for stem, path in first.items() if stem not in both],
        [path for stem, path in second.items() if stem not in used],
        tuple(dict.fromkeys((*_nearly_alike(alike), *notes))),
    )


def with_finished(found: FolderPairs, finished: FolderPairs) -> FolderPairs:
    """Labelled images with finished objects beside their labels.

    Parameters
    ----------
    found
        Images with their labels.
    finished
        The same images with files of finished objects, which images without labels do not have.

    Raises
    ------
    UserError
        Finished objects are no whole numbers or look like an image, or none of their images is
        labelled.
    """
    objects = {}
    for pair in finished.pairs:
        pair.values()
        objects[pair.image.name] = pair.labels
    if not objects.keys() & {pair.image.name for pair in found.pairs}:
        raise UserError(
            "No image with labels has finished objects; give labels and finished objects of the "
            "same images."
        )
    pairs = [replace(pair, objects=objects.get(pair.image.name)) for pair in found.pairs]
    notes = dict.fromkeys((*found.notes, *finished.notes))
    return replace(found, pairs=pairs, notes=tuple(notes))


def _by_stem(images: Path, labels: Path) -> tuple[dict[str, Path], dict[str, Path], dict[str, str]]:
    """Images by stem, labels by stem, and for each image with labels the stem of these."""
    files = not _is_folder(images) and not _is_folder(labels)
    if not files and images.resolve() == labels.resolve():
        raise UserError(f"{images} was given as both images and labels; put them in two folders.")
    first, second = images_by_stem([images]), images_by_stem([labels])
    if files:  # two single files are a pair, whatever their names
        second = {next(iter(first)): labels}
    both = partners(first, second)
    if not both:
        raise UserError(
            f"No image in {images} has labels in {labels}: they need the same name without the "
            f"suffix, but there are {_examples(first)} and {_examples(second)}; rename one of them."
        )
    return first, second, both


def _pair(
    image: Path,
    labels: Path,
    *,
    kind: LabelKind,
    ignore: int | None,
    threshold: float | None,
    axes: str | None,
    spacing: str | Sequence[float] | None,
    series: str | int | None,
    missing_planes: MissingPlanes,
) -> tuple[AnnotatedImage, Stack]:
    """An image with its labels, and the labels' own stack."""
    stack = open_stack(
        image, axes=axes, spacing=spacing, series=series, missing_planes=missing_planes
    )
    if series is not None and len(contents_of(labels)) < 2:
        series = None
    array, stored = read_labels(
        labels,
        stack.grid_shape,
        threshold=threshold,
        ignore=ignore,
        axes=axes,
        series=series,
        missing_planes=missing_planes,
    )
    return AnnotatedImage(
        stack, array, kind, ignore=ignore if threshold is None else IGNORE_INDEX
    ), stored


def _nearly_alike(pairs: Sequence[tuple[Path, Path]]) -> tuple[str, ...]:
    """A note on pairs whose names are not equal."""
    if not pairs:
        return ()
    image, labels = pairs[0]
    more = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
    return (f"Paired by nearly the same name: {image.name} with {labels.name}{more}.",)


def _other_sizes(found: Sequence[tuple[AnnotatedImage, Stack]], files: Sequence[Path]) -> list[str]:
    """A note on labels whose pixel sizes differ from their image's; missing sizes are fine."""
    differences = [
        f"{file} has {differing}"
        for (pair, labels), file in zip(found, files, strict=True)
        if (differing := _differing(pair.image, labels))
    ]
    if not differences:
        return []
    more = f", and {len(differences) - 1} more so" if len(differences) > 1 else ""
    return [f"{differences[0]}{more}; they are paired pixel by pixel, so check that they match."]


def _differing(image: Stack, labels: Stack) -> str:
    """Pixel sizes of labels and of their image, if both are known and differ."""
    its, the = _lengths(labels), _lengths(image)
    both = [axis for axis in "ZYX" if axis in its and axis in the]
    if all(math.isclose(its[axis], the[axis], rel_tol=SAME) for axis in both):
        return ""
    texts = (" × ".join(f"{sizes[axis]:.4g}" for axis in both) for sizes in (its, the))
    return "pixels of {} µm, its image of {} µm".format(*texts)


def _lengths(stack: Stack) -> dict[str, float]:
    """Pixel sizes in micrometres of the axes with known sizes."""
    sizes = zip(stack.grid_axes, stack.grid_spacing, stack.grid_units, strict=True)
    lengths = {axis: micrometres(size, unit) for axis, size, unit in sizes}
    return {axis: length for axis, length in lengths.items() if length is not None}


def _examples(stems: Iterable[str]) -> str:
    names = list(stems)
    return ", ".join(repr(n) for n in names[:2]) + (", …" if len(names) > 2 else "")


class FolderDataset(Sequence[AnnotatedImage]):
    """Images and labels of two folders, paired by stem as by `find_pairs` and opened lazily.

    Parameters
    ----------
    images, labels
        A file or a folder each.
    kind
        ``full`` (0 background, 1 to 254 structures; also masks of 0 and 255), ``strokes`` (0 not
        labelled, 255 background) or ``instances`` (every number an object).
    ignore
        A value that means "not labelled".
    threshold
        Values above it are structure 1: for masks with blurred edges and probability maps.

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
        threshold: float | None = None,
    ) -> None:
        found = find_pairs(images, labels, kind, ignore, threshold=threshold)
        self._pairs = found.pairs
        self.skipped = found.skipped
        """Images without labels."""
        self.notes = found.notes
        """Notes for the user on how files were paired and read, a sentence each."""

    def __len__(self) -> int:
        return len(self._pairs)

    @overload
    def __getitem__(self, index: int) -> AnnotatedImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[AnnotatedImage]: ...
    def __getitem__(self, index: int | slice) -> AnnotatedImage | list[AnnotatedImage]:
        return self._pairs[index]

    def __repr__(self) -> str:
        return f"FolderDataset({len(self)} pairs, {len(self.skipped)} images without labels)"
