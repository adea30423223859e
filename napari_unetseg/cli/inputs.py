"""Labelled images and models as command arguments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetseg.cli.console import note
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.text import count

if TYPE_CHECKING:
    from napari_unetseg.cli.options import ImageFiles
    from napari_unetseg.core.labels import LabelKind
    from napari_unetseg.io.folder_pairs import FolderPairs
    from napari_unetseg.models.model import Model


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images and labels as given on the command line."""

    images: Path
    labels: Path
    kind: LabelKind
    ignore: int | None
    threshold: float | None
    files: ImageFiles
    finished: Path | None = None
    """Finished objects beside the labels."""

    def find(self) -> FolderPairs:
        """Pair them; print their number."""
        from napari_unetseg.io.folder_pairs import find_pairs, with_finished

        how = self.files.model_dump()
        found = find_pairs(
            self.images, self.labels, self.kind, self.ignore, threshold=self.threshold, **how
        )
        if self.finished is not None:
            found = with_finished(found, find_pairs(self.images, self.finished, "finished", **how))
            with_objects = sum(pair.objects is not None for pair in found.pairs)
            note(f"{count(with_objects, 'image')} with finished objects.")
        note(f"{count(len(found.pairs), 'image')} with labels ({self.kind}).")
        if found.skipped:
            note(f"{count(len(found.skipped), 'image')} without labels skipped.")
        if found.unused:
            note(f"{count(len(found.unused), 'file')} of labels without an image skipped.")
        for sentence in found.notes:
            note(sentence)
        return found


def load(path: Path) -> Model:
    """Load a model.

    Raises
    ------
    UserError
        It is not a model; the text tells an image from other files.
    """
    from napari_unetseg.io.file_names import as_stored
    from napari_unetseg.io.open_image import is_image
    from napari_unetseg.models.model import load_model

    path = as_stored(path)
    if path.exists() and is_image(path):
        raise UserError(
            f"{path} is an image or a folder, not a model; give the model (a .safetensors file) "
            "first, then the images."
        )
    return load_model(path)
