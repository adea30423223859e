"""Safe opening of a TIFF and of companion files in its folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tifffile

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.readers.ome_files import (
    MOST_XML,
    OmeFiles,
    beside,
    checked_xml,
    files_of,
    metadata_beside,
)
from napari_unetseg.io.readers.tiff_pages import check_chain


@dataclass(frozen=True, slots=True)
class OpenTiff:
    """An open TIFF; the caller closes it."""

    file: tifffile.TiffFile
    """The TIFF, with the planes of all files that belong to it."""
    notes: tuple[str, ...] = ()
    """Notes on these files for the user, a sentence each."""
    missing: tuple[str, ...] = ()
    """Names of missing files, whose planes are missing."""


def open_tiff(path: Path) -> OpenTiff:
    """Open a TIFF; a multi-file OME-TIFF includes the planes of all its files.

    The metadata may lie in a ``companion.ome`` beside it.

    Raises
    ------
    UserError
        The metadata refer to files in another folder, or declare more planes than the limit; a file
        of an NDTiff is missing.
    ValueError
        The chain of pages is circular.
    """
    file = tifffile.TiffFile(path)
    found = OmeFiles(None)
    try:
        check_chain(file)
        if file.is_ome and (text := file.ome_metadata):
            found = _ome(path, file, text)
            if found.text:
                file.close()
                file = tifffile.TiffFile(path, omexml=found.text)
        if file.is_ndtiff:
            for entry in tifffile.read_ndtiff_index(path.parent / "NDTiff.index"):
                if not (other := beside(path, str(entry[1]))).is_file():
                    raise UserError(
                        f"{other} is missing, which is a part of {path.name}; "
                        "put it into the same folder."
                    )
    except BaseException:
        file.close()
        raise
    return OpenTiff(file, found.notes, found.missing)


def _ome(path: Path, file: tifffile.TiffFile, text: str) -> OmeFiles:
    """The files of an OME-TIFF, also for a file whose metadata are in another file."""
    root = checked_xml(path, text)
    own, only = root.get("UUID"), root.find("{*}BinaryOnly")
    if only is None:
        return files_of(path, file, root, own)
    name = only.get("MetadataFile", "")
    companion = _companion(path, name, only.get("UUID"))
    if not companion:
        return OmeFiles(None, missing=(name,))
    found = files_of(path, file, checked_xml(path, companion), own)
    return replace(found, text=found.text or companion)


def _companion(path: Path, name: str, uuid: str | None) -> str | None:
    """OME-XML in the file with that name or UUID; None if it is missing."""
    other = metadata_beside(path, name, uuid)
    if other is None:
        return None
    if other.suffix.lower() in (".tif", ".tiff"):
        with tifffile.TiffFile(other) as file:
            return file.ome_metadata
    if other.stat().st_size > MOST_XML:
        raise UserError(f"{other} is too large for metadata; save it again.")
    return other.read_text(encoding="utf-8")
