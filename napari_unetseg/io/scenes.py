"""Selection of one image of a multi-image file: paths such as ``slide.lif/Series 2``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from napari_unetseg.core.errors import ChoiceError

NAMED = 8
"""So many names stand in a sentence."""


def split_scene(path: Path, suffixes: Sequence[str]) -> tuple[Path, str]:
    """The file, and the name of one of its images, of a path such as ``slide.lif/Series 2``.

    ``suffixes`` are those of files that may hold several images, in lower case.
    """
    for parent in (path, *path.parents):
        if parent.suffix.lower() in suffixes and parent.is_file():
            scene = path.relative_to(parent)
            return parent, "" if scene == Path() else scene.as_posix()
    return path, ""


def scene_stem(stem: str, scene: str) -> str:
    """What such an image is called: a name that a file can have on any system."""
    return re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", f"{stem}_{scene}") if scene else stem


def choose_scene(path: Path, names: Sequence[str], wanted: str, shown: Sequence[str] = ()) -> int:
    """Which of several images is meant, by its name or its number from 1.

    Parameters
    ----------
    path
        The file.
    names
        What its images are called; no two are the same.
    wanted
        A name, or a number that is none of the names; empty where nothing was said.
    shown
        The names with what people need to choose; default the names alone.

    Raises
    ------
    ChoiceError
        There are several and none was named, which the sentence lists; or none is called that.
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
    """The error that lists the images in a file, of which none or a wrong one was named."""
    count = "1 image" if len(names) == 1 else f"{len(names)} images"
    holds = f"{count}: {listed(shown or names)}"
    what = f"no image {wanted[:80]!r}, but {holds}" if wanted else holds
    return ChoiceError(
        f"{path} holds {what}; choose one, such as '{path.name}/{names[0]}', or give its "
        "number, such as --series 1."
    )


def listed(names: Sequence[str]) -> str:
    """The first names, for a sentence."""
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
