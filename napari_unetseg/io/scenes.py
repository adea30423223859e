"""Selection of one image of a multi-image file: paths such as ``slide.lif/Series 2``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from napari_unetseg.core.errors import ChoiceError

NAMED = 8
"""Maximum number of names in a message."""


def split_scene(path: Path, suffixes: Sequence[str]) -> tuple[Path, str]:
    """Split a path into the file and the name of one of its images, such as ``slide.lif/Series 2``.

    ``suffixes`` are those of multi-image formats, in lower case.
    """
    for parent in (path, *path.parents):
        if parent.suffix.lower() in suffixes and parent.is_file():
            scene = path.relative_to(parent)
            return parent, "" if scene == Path() else scene.as_posix()
    return path, ""


def scene_stem(stem: str, scene: str) -> str:
    """A file name for such an image that is valid on any system."""
    return re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", f"{stem}_{scene}") if scene else stem


def choose_scene(path: Path, names: Sequence[str], wanted: str, shown: Sequence[str] = ()) -> int:
    """Select one of several images by its name or its number from 1.

    Parameters
    ----------
    path
        The file.
    names
        The unique names of its images.
    wanted
        A name, or a number that is not a name; empty if not specified.
    shown
        The names with details for the user's choice; default the names alone.

    Raises
    ------
    ChoiceError
        There are several, which the message lists, and none was named; or none has that name.
    """
    if not wanted and len(names) == 1:
        return 0
    for number, name in enumerate(names):
        if wanted and wanted in (name, PurePosixPath(name).as_posix().lstrip("/")):
            return number
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return int(wanted) - 1
    raise several(path, names, shown, wanted)


def several(
    path: Path, names: Sequence[str], shown: Sequence[str] = (), wanted: str = ""
) -> ChoiceError:
    """The error that lists the images in a file, if none or a wrong one was named."""
    count = "1 image" if len(names) == 1 else f"{len(names)} images"
    holds = f"{count}: {listed(shown or names)}"
    what = f"no image {wanted[:80]!r}, but {holds}" if wanted else holds
    return ChoiceError(
        f"{path} holds {what}; choose one, such as '{path.name}/{names[0]}', or give its "
        "number, such as --series 1."
    )


def listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
