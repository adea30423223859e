"""Opening a TIFF and the files that belong to it, once these are known to lie in its folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.lazy import check_size
from napari_unetseg.io.names import as_stored
from napari_unetseg.io.zarr_nodes import MOST_CHUNK, inside

__all__ = ["check_pages", "open_tiff"]

MOST_XML = 64 * 2**20
MOST_PLANES = 10**7
_COUNTS = (
    "SizeT", "SizeC", "SizeZ", "SizeX", "SizeY", "IFD", "NumPlanes", "PlaneCount", "FirstT",
    "FirstC", "FirstZ", "SamplesPerPixel",
)  # fmt: skip


def open_tiff(path: Path) -> tifffile.TiffFile:
    """Open a TIFF; of several files of an OME-TIFF the planes of all belong to it.

    The metadata may lie in a ``companion.ome`` beside it. Whoever opens it closes it.

    Raises
    ------
    UserError
        The metadata name files that are not there or in another folder, or more planes than any
        image has.
    """
    file = tifffile.TiffFile(path)
    try:
        text = file.ome_metadata if file.is_ome else None
        if text and (companion := _companion(path, text)) is not None:
            file.close()
            text = companion
            file = tifffile.TiffFile(path, omexml=text)
        if text:
            names = {name: _beside(path, name).name for name in _files_in(path, text)}
            spelt = {name: stored for name, stored in names.items() if name != stored}
            if spelt:  # tifffile opens the parts by the names in the metadata
                file.close()
                file = tifffile.TiffFile(path, omexml=_respelt(text, spelt))
        if file.is_ndtiff:
            for entry in tifffile.read_ndtiff_index(path.parent / "NDTiff.index"):
                _beside(path, str(entry[1]))
    except BaseException:
        file.close()
        raise
    return file


def check_pages(path: Path, series: tifffile.TiffPageSeries, stored: int) -> None:
    """Refuse pages that are not as large as the first one, and pieces that no file could hold.

    Each page, in whatever file, has a header of its own, and memory is taken as that one says.

    Raises
    ------
    UserError
        A tile or a strip of more than 2 GB, or of 10,000 bytes for each of the ``stored`` ones.
    ValueError
        Pages are not alike.
    """
    first = series.keyframe
    kinds = {id(p.keyframe): p.keyframe for p in series.pages if p is not None}
    for page in filter(None, kinds.values()):
        if page.nbytes != first.nbytes:
            raise ValueError("pages of several sizes in one series")
        piece = math.prod(page.chunks) * page.dtype.itemsize if page.dtype else 0
        check_size(path, piece, stored)
        if piece > MOST_CHUNK:
            raise UserError(
                f"{path} would have to be read in pieces of {piece / 2**30:,.0f} GB; save it with "
                f"tiles of at most {MOST_CHUNK >> 30} GB."
            )


def _beside(path: Path, name: str) -> Path:
    """A file that metadata name, which must be there and in the folder of the image."""
    other = as_stored(path.parent / name)
    plain = name and not set(name) & set("\\:\0") and not Path(name).is_absolute()
    if not plain or ".." in Path(name).parts or not inside(other, path.parent):
        raise UserError(
            f"{path} names {name[:80]!r} as a part of it, which is not in its folder; "
            "put all its files into one folder."
        )
    if not other.is_file():
        raise UserError(f"{other} is missing, which is a part of {path.name}; put it beside it.")
    return other


def _respelt(text: str, spelt: Mapping[str, str]) -> str:
    """OME-XML with other file names: those of the same name that are there."""
    root = ElementTree.fromstring(text)
    for element in root.iter():
        name = element.get("FileName", "")
        if name in spelt:
            element.set("FileName", spelt[name])
    return ElementTree.tostring(root, encoding="unicode")


def _companion(path: Path, text: str) -> str | None:
    """OME-XML of a file that holds pixels alone and names another one for the rest."""
    if "BinaryOnly" not in text or len(text) > MOST_XML:
        return None
    for element in ElementTree.fromstring(text).iter():
        if element.tag.endswith("BinaryOnly") and (name := element.get("MetadataFile")):
            other = _beside(path, name)
            if other.suffix.lower() in (".tif", ".tiff"):
                with tifffile.TiffFile(other) as file:
                    return file.ome_metadata
            if other.stat().st_size > MOST_XML:
                raise UserError(f"{other} is too large for metadata; save it again.")
            return other.read_text(encoding="utf-8")
    return None


def _files_in(path: Path, text: str) -> Iterator[str]:
    """Names of the files in OME-XML whose counts are those of an image."""
    if len(text) > MOST_XML:
        raise UserError(f"{path} has metadata of {len(text) >> 20} MB; save it again.")
    for element in ElementTree.fromstring(text).iter():
        counts = {k: int(element.get(k, 0)) for k in _COUNTS if k in element.attrib}
        planes = 1
        for key in ("SizeT", "SizeC", "SizeZ"):
            planes *= counts.get(key, 1)
        if not all(0 <= n <= MOST_PLANES for n in (planes, *counts.values())):
            raise ValueError("more planes than any image has")
        if element.tag.endswith("UUID") and (name := element.get("FileName")):
            yield name
