"""Files of a multi-file OME-TIFF, from its metadata and its folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.file_names import as_stored, same_name
from napari_unetseg.io.readers.zarr_nodes import inside

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")
MOST_XML = 64 * 2**20
MOST_PLANES = 10**7
HEAD = 8192
"""Number of bytes at the start of the metadata that are searched for a file's UUID."""
_COUNTS = (
    "SizeT", "SizeC", "SizeZ", "SizeX", "SizeY", "IFD", "NumPlanes", "PlaneCount", "FirstT",
    "FirstC", "FirstZ", "SamplesPerPixel",
)  # fmt: skip
_ROOT_UUID = re.compile(rb'<(?:\w+:)?OME\b[^>]*?\bUUID="([^"]+)"')

Reference = tuple[str, str]
"""UUID and name of a file in the metadata."""


@dataclass(frozen=True, slots=True)
class OmeFiles:
    """The files that an OME-TIFF refers to."""

    text: str | None
    """OME-XML with the current file names; None if the file's own is valid."""
    notes: tuple[str, ...] = ()
    """Notes for the user, a sentence each."""
    missing: tuple[str, ...] = ()
    """Names of missing files; ``text`` has no entry of their planes."""


def checked_xml(path: Path, text: str) -> ElementTree.Element:
    """Parse OME-XML and check its counts.

    Raises
    ------
    UserError
        It is larger than the limit for metadata.
    ValueError
        It declares more planes than the limit for images.
    """
    if len(text) > MOST_XML:
        raise UserError(f"{path} has metadata of {len(text) >> 20} MB; save it again.")
    root = ElementTree.fromstring(text)
    for element in root.iter():
        counts = {k: int(element.get(k, 0)) for k in _COUNTS if k in element.attrib}
        planes = 1
        for key in ("SizeT", "SizeC", "SizeZ"):
            planes *= counts.get(key, 1)
        if not all(0 <= n <= MOST_PLANES for n in (planes, *counts.values())):
            raise ValueError("more planes than any image has")
    return root


def files_of(
    path: Path, file: tifffile.TiffFile, root: ElementTree.Element, own: str | None
) -> OmeFiles:
    """Find the files that OME-XML refers to, also after renaming.

    A UUID takes precedence over a name: a reference with this file's UUID is this file, and another
    file is searched by UUID if none has its name. If only one name is referenced, it is this file
    under another name if no UUID contradicts that, or if no file has it and this file contains all
    of its pages.

    Parameters
    ----------
    path, file
        The file that is opened.
    root
        Its metadata, or those of its companion file; modified where names differ.
    own
        The UUID in this file.

    Raises
    ------
    UserError
        A name refers to another folder.
    """
    parts = list(_parts(root))
    references = tuple(dict.fromkeys(ref for *_, ref in parts))
    search = _Search(path, own, references)
    places = _places(path, file, parts, search)
    missing = tuple(name for (_, name), place in places.items() if place is None)
    if all(_as_named(ref, places, path, root.get("UUID")) for ref in places):
        return OmeFiles(None, tuple(search.notes))
    _rename(parts, places, path)
    text = ElementTree.tostring(root, encoding="unicode")
    return OmeFiles(text, tuple(search.notes), missing)


def _places(
    path: Path, file: tifffile.TiffFile, parts: list[Part], search: _Search
) -> dict[Reference, Path | None]:
    """Map references to files; None for missing ones."""
    itself: dict[Reference, Path | None] = dict.fromkeys(search.references, path)
    alone = len({name for _, name in search.references}) == 1
    unsaid = not search.own or not all(uuid for uuid, _ in search.references)
    if alone and unsaid and _fits(file, parts):
        return itself
    places = {ref: search.place(ref) for ref in search.references}
    if alone and not any(places.values()) and (unsaid or _fits(file, parts)):
        return itself
    return places


Part = tuple[ElementTree.Element, ElementTree.Element, Reference]
"""Pixels, one of their TiffData, and the file it refers to."""


def _parts(root: ElementTree.Element) -> Iterator[Part]:
    for pixels in root.iter():
        if pixels.tag.endswith("Pixels"):
            for data in pixels:
                uuid = next((u for u in data if u.tag.endswith("UUID")), None)
                if data.tag.endswith("TiffData") and uuid is not None:
                    yield pixels, data, (uuid.text or "", uuid.get("FileName", ""))


def _fits(file: tifffile.TiffFile, parts: list[Part]) -> bool:
    """Whether a file contains all pages that the metadata refer to."""
    pages = len(file.pages)
    ends = [
        int(data.get("IFD", 0))
        + int(data.get("PlaneCount", data.get("NumPlanes", 1 if "IFD" in data.attrib else 0)))
        for _, data, _ in parts
    ]
    return max(ends, default=0) <= pages


def _as_named(
    ref: Reference, places: dict[Reference, Path | None], path: Path, root: str | None
) -> bool:
    """Whether tifffile, which searches by UUID and then by name, finds the same file."""
    uuid, name = ref
    place = places[ref]
    if place == path:
        return uuid == root or (root is None and name.lower() == path.name.lower())
    shared = {p for (u, _), p in places.items() if u == uuid}
    return bool(uuid) and uuid != root and len(shared) == 1 and place == path.parent / name


def _rename(parts: list[Part], places: dict[Reference, Path | None], path: Path) -> None:
    """Write file names into the XML: none for this file; data in missing files are removed."""
    for pixels, data, ref in parts:
        place = places[ref]
        if place is None:
            pixels.remove(data)
            continue
        for uuid in [u for u in data if u.tag.endswith("UUID")]:
            if place == path:
                data.remove(uuid)
            else:
                uuid.set("FileName", place.name)
                uuid.text = f"file:{place.name}"


class _Search:
    """Searches the folder of one file for the other files of a set."""

    def __init__(self, path: Path, own: str | None, references: tuple[Reference, ...]) -> None:
        self.references = references
        self.notes: list[str] = []
        self._path, self.own = path, own
        self._uuids: dict[Path, str | None] = {path: own}

    def place(self, ref: Reference) -> Path | None:
        """The file of a reference; None if it is missing."""
        uuid, name = ref
        if uuid and uuid == self.own and not self._of_a_twin(ref):
            return self._path
        named = self._path if _same(name, self._path.name) else self._named(name)
        has = self._uuid(named) if named is not None else None
        if named is not None and (not uuid or has in (None, uuid)):
            return named
        found = self._with_uuid(uuid) if uuid else None
        if found is None and named is not None and named != self._path:
            self.notes.append(
                f"{named.name} does not have the UUID that {self._path.name} gives for it; it "
                "is used because of its name."
            )
        return found or named

    def _of_a_twin(self, ref: Reference) -> bool:
        """Whether the reference is to another file of the set with the same UUID."""
        uuid, name = ref
        if not any(_same(n, self._path.name) for _, n in self.references if n != name):
            return False
        other = self._named(name)
        return other is not None and self._uuid(other) == uuid

    def _named(self, name: str) -> Path | None:
        other = beside(self._path, name)
        if other.is_file():
            return other
        return next((f for f in self._files if _same(f.name, name)), None)

    def _with_uuid(self, uuid: str) -> Path | None:
        return next((f for f in self._files if self._uuid(f) == uuid), None)

    def _uuid(self, file: Path) -> str | None:
        if file not in self._uuids:
            self._uuids[file] = uuid_of(file)
        return self._uuids[file]

    @cached_property
    def _files(self) -> list[Path]:
        return tiffs_beside(self._path)


def _same(one: str, other: str) -> bool:
    """Whether two names are equal up to case and Unicode normalisation."""
    return same_name(one).casefold() == same_name(other).casefold()


def tiffs_beside(path: Path, *suffixes: str) -> list[Path]:
    """The other TIFFs in the folder of a file, without links to other folders."""
    return sorted(
        f
        for f in path.parent.iterdir()
        if f.suffix.lower() in (*TIFF_SUFFIXES, *suffixes)
        and f != path
        and inside(f, path.parent)
        and f.is_file()
    )


def uuid_of(path: Path) -> str | None:
    """The UUID in a file's OME-XML, if any."""
    status = path.stat()
    return _uuid_of(path, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=4096)
def _uuid_of(path: Path, stamp: tuple[int, int]) -> str | None:
    del stamp  # a file that was saved again is reread
    try:
        with path.open("rb") as stream:
            if stream.read(2) in (b"II", b"MM"):
                with tifffile.TiffFile(path) as file:
                    tag = file.pages.first.tags[270]
                    file.filehandle.seek(tag.valueoffset)
                    head = file.filehandle.read(min(tag.count, HEAD))
            else:
                stream.seek(0)
                head = stream.read(HEAD)
    except Exception:  # noqa: BLE001 - other files in the folder are not part of the set
        return None
    found = _ROOT_UUID.search(head)
    return found[1].decode(errors="replace") if found else None


def metadata_beside(path: Path, name: str, uuid: str | None) -> Path | None:
    """The metadata file that a file refers to, also after renaming; None if missing."""
    other = beside(path, name)
    if other.is_file():
        return other
    found = (f for f in tiffs_beside(path, ".ome", ".xml") if uuid and uuid_of(f) == uuid)
    return next(found, None)


def beside(path: Path, name: str) -> Path:
    """The path of a file named in metadata, which must be in the folder of the image."""
    other = as_stored(path.parent / name)
    plain = name and not set(name) & set("\\:\0") and not Path(name).is_absolute()
    if not plain or ".." in Path(name).parts or not inside(other, path.parent):
        raise UserError(
            f"{path} refers to {name[:80]!r}, which is not in its folder; put all its files "
            "into one folder."
        )
    return other
