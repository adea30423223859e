"""A project as it is read: its file, the snapshot that this names, and the journals since."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_unetseg.annotations.annotation_store import Origin, Truth
from napari_unetseg.annotations.annotation_time import Effort
from napari_unetseg.annotations.sparse_array import planes_of
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.io.file_names import as_stored
from napari_unetseg.io.journal import Adopted, Frame, Said, State, Together, read_frames
from napari_unetseg.io.snapshot import read_truth

__all__ = ["FILE", "FORMAT", "Contents", "check_folder", "places_of", "read_contents"]

FORMAT = 1
FILE = "project.json"
MOST_FILE = 2**26
KEY = re.compile(r"image-\d{1,6}")


@dataclass(eq=False)
class Contents:
    """What a project holds.

    Attributes
    ----------
    folder
        Where it is.
    snapshot, first
        The snapshot that counts, empty for none, and the number of the first journal that does.
    number
        The largest number of a journal.
    values, truths, effort, lost
        As in `napari_unetseg.io.project.Project`.
    """

    folder: Path
    snapshot: str = ""
    first: int = 0
    number: int = 0
    values: dict[str, Any] = field(default_factory=dict)
    truths: dict[str, Truth] = field(default_factory=dict)
    effort: Effort = field(default_factory=Effort)
    lost: list[str] = field(default_factory=list)

    def read(self) -> None:
        """Read everything; what cannot be read is noted in `lost`."""
        content = _read_file(self.folder / FILE)
        self.snapshot, self.first = content["snapshot"], content["journal"]
        self.values = content["values"]
        self._read_effort(content.get("effort"))
        for key, image in content["images"].items():
            truth = _truth_of(key, image)
            self.truths[key] = truth
            folder = self.folder / self.snapshot / key
            if self.snapshot and folder.is_dir():
                for problem in read_truth(folder, truth):
                    self.lost.append(f"Part of what was saved could not be read: {problem}.")
        numbers = sorted(
            int(path.name.removeprefix("journal-"))
            for path in self.folder.glob("journal-*")
            if path.name.removeprefix("journal-").isdigit() and not path.is_symlink()
        )
        for number in numbers:
            self.number = max(self.number, number)
            if number >= self.first:
                self._replay(self.folder / f"journal-{number}")

    def _read_effort(self, said: Any) -> None:
        if said is not None:
            try:
                self.effort = Effort.from_json(said)
            except ValueError:
                self.lost.append("How long was annotated could not be read.")

    def _replay(self, path: Path) -> None:
        frames = read_frames(path)
        try:
            while True:
                self._put(next(frames))
        except StopIteration as end:
            if end.value:
                self.lost.append(f"The last {end.value:,} bytes of {path.name} were not whole.")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self.lost.append(f"{path.name} could be read only in part: {error}.")

    def _put(self, frame: Frame) -> None:
        match frame:
            case State(values):
                self.values = values
                self._know(values)
            case Together(frames):
                for one in frames:
                    self._put(one)
            case Adopted(image, dtype, kind):
                self._known(image).begin_strokes(np.dtype(dtype), kind)
            case Said(image, change, seconds):
                truth = self._known(image)
                inside = len(change.region) == len(truth.shape) and all(
                    s.stop <= n for s, n in zip(change.region, truth.shape, strict=True)
                )
                if not inside:
                    raise ValueError("something was said of a place outside its image")
                truth.put(change)
                self.effort.seconds = max(self.effort.seconds, seconds)
                if change.origin is Origin.FIRST:
                    planes = planes_of(change.region)
                    self.effort.predicted(image, planes, seconds, change.stamp)

    def _know(self, values: dict[str, Any]) -> None:
        """Images that were added since the snapshot, and what their numbers mean now."""
        for key, image in values.get("images", {}).items():
            if key in self.truths:
                self.truths[key].kind = LabelKind(image["kind"])
            else:
                self.truths[key] = _truth_of(key, image)

    def _known(self, image: str) -> Truth:
        if image not in self.truths:
            raise ValueError("something was said of an image that is not in the project")
        return self.truths[image]


def check_folder(folder: Path) -> None:
    """Raise a `UserError` where a folder is no project, or has links in place of its files."""
    if not (folder / FILE).is_file():
        raise UserError(f"{folder} is no project: there is no {FILE} in it; choose another.")
    if any((folder / name).is_symlink() for name in (FILE, "models", ".lock")):
        raise UserError(f"{folder} holds links in place of its files; it is not opened.")


def places_of(folder: Path, described: Mapping[str, Any]) -> list[Path]:
    """Where an image of a project may be: beside the project, as it moves with it, or as before."""
    relative, path = described.get("relative"), described.get("path")
    places = [folder / relative] if isinstance(relative, str) else []
    places += [Path(path)] if isinstance(path, str) else []
    return [as_stored(place) for place in places]


def read_contents(folder: Path) -> Contents:
    """Read a project.

    Raises
    ------
    UserError
        ``project.json`` is damaged, or of a newer version.
    """
    contents = Contents(folder)
    contents.read()
    return contents


def _truth_of(key: str, image: Any) -> Truth:
    """An empty truth of an image, if it is described as it must be."""
    try:
        shape = tuple(image["shape"])
        fits = KEY.fullmatch(key) and 2 <= len(shape) <= 6
        fits = fits and all(type(n) is int and 0 < n < 2**31 for n in shape)
        dtype, kind = np.dtype(str(image["dtype"])), LabelKind(image["kind"])
        if not fits or dtype.kind not in "biu":
            raise ValueError("an image is not described as it must be")
        return Truth(shape, dtype, kind)
    except (KeyError, TypeError) as error:
        raise ValueError("an image is not described as it must be") from error


def _read_file(path: Path) -> dict[str, Any]:
    """What ``project.json`` says, checked.

    Raises
    ------
    UserError
        It is damaged, or of a newer version.
    """
    try:
        if path.stat().st_size > MOST_FILE:
            raise ValueError("too large")
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise UserError(
                f"{path.parent.name} was made by another version of this plugin (format "
                f"{content['format']}, here {FORMAT}); update the plugin to open it."
            )
        wanted = {"snapshot": str, "journal": int, "images": dict, "values": dict}
        if not all(isinstance(content[key], kind) for key, kind in wanted.items()):
            raise ValueError("other types")
        if content["snapshot"] and not re.fullmatch(r"snapshot-\d{1,9}", content["snapshot"]):
            raise ValueError("another snapshot")
        for key, image in content["images"].items():
            _truth_of(key, image)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(_damaged(path)) from error
    result: dict[str, Any] = content
    return result


def _damaged(path: Path) -> str:
    return f"{path} is damaged; put a backup of it in its place."
