"""Input images by path or pattern, and checks of their output paths."""

from __future__ import annotations

import glob
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.file_names import as_stored, same_name
from napari_unetseg.io.folder_pairs import images_by_stem
from napari_unetseg.io.open_image import file_of, image_path, stem_of

if TYPE_CHECKING:
    from napari_unetseg.inference.large.output_format import Saving


def find_images(
    images: Sequence[str], *, inside: bool = False, series: str | int | None = None
) -> dict[str, Path]:
    """Images by their stems: files, folders of files, and patterns such as ``scans/*.tif``.

    ``inside``: all must be OME-Zarr images. ``series`` names the image in files of several, as
    the paths ``slide.lif/Series 2`` do.
    """
    paths: list[Path] = []
    for image in images:
        path = as_stored(Path(image).expanduser())
        if not file_of(path).exists() and glob.has_magic(image):
            found = _matching(str(path))
            if not found:
                raise UserError(f"No file matches {image}; check the pattern.")
            paths += [Path(name) for name in found]
        else:
            paths.append(path)
    if not inside:
        files = images_by_stem(paths)
        if series is None:
            return files
        named = [image_path(path, series) for path in files.values()]
        return {stem_of(path): path for path in named}
    for path in paths:
        if not (path / "zarr.json").is_file():
            raise UserError(
                f"{path} is not an OME-Zarr 0.5 image, so a mask cannot be written into it; "
                "give a folder for the masks with -o."
            )
    return {str(path): path for path in paths}


def _matching(pattern: str) -> list[str]:
    """Paths that match a pattern, in any Unicode normalisation."""
    spelt = {unicodedata.normalize(form, pattern) for form in ("NFC", "NFD")} | {pattern}
    return sorted({name for one in spelt for name in glob.glob(one, recursive=True)})


def check_outputs(paths: Mapping[str, Path], how: Saving) -> None:
    """Refuse outputs that would replace an image or one another."""
    output = how.folder
    assert output is not None
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; give a folder for the masks with -o.")
    inputs = {file_of(path).resolve() for path in paths.values()}
    beside = output.resolve() in {path.parent for path in inputs} and not how.format.by_chunks
    for stem, path in paths.items():
        mask, shares = how.mask_of(stem, path), how.probabilities_of(stem)
        if mask.resolve() in inputs:
            raise UserError(f"The mask {mask} would overwrite an image; choose another folder.")
        results = [p for p in (mask, shares) if p is not None]
        if beside and (there := [p for p in results if p.exists()]):
            raise UserError(
                f"{there[0]} is in the folder of the images and would be replaced; choose "
                "another folder."
            )
        if shares is not None and same_name(f"{stem}_probabilities") in map(same_name, paths):
            raise UserError(
                f"The probabilities of {stem} would get the name of another image; rename "
                "one of the two."
            )
