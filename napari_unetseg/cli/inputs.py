"""Labelled images and models as command arguments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_unetseg.cli.console import note
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.core.text import count

if TYPE_CHECKING:
    from napari_unetseg.cli.options import ImageFiles
    from napari_unetseg.data.annotated_image import AnnotatedImage
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
        from napari_unetseg.io.folder_pairs import find_pairs

        found = find_pairs(
            self.images,
            self.labels,
            self.kind,
            self.ignore,
            threshold=self.threshold,
            axes=self.files.axes,
            spacing=self.files.spacing,
            series=self.files.series,
            missing_planes=self.files.missing_planes,
        )
        if self.finished is not None:
            found = replace(found, pairs=self._with_objects(found.pairs, self.finished))
        note(f"{count(len(found.pairs), 'image')} with labels ({self.kind}).")
        if found.skipped:
            note(f"{count(len(found.skipped), 'image')} without labels skipped.")
        if found.unused:
            note(f"{count(len(found.unused), 'file')} of labels without an image skipped.")
        for sentence in found.notes:
            note(sentence)
        return found

    def _with_objects(self, pairs: list[AnnotatedImage], path: Path) -> list[AnnotatedImage]:
        """The pairs with finished objects of the same stem."""
        from napari_unetseg.data.annotated_image import AnnotatedImage
        from napari_unetseg.io.folder_pairs import find_pairs

        files = self.files
        others = find_pairs(
            self.images,
            path,
            LabelKind.FINISHED,
            self.ignore,
            axes=files.axes,
            spacing=files.spacing,
            series=files.series,
            missing_planes=files.missing_planes,
        ).pairs
        objects = {other.image.name: other.labels for other in others}
        used = [pair for pair in pairs if pair.image.name in objects]
        note(f"Finished objects for {count(len(used), 'image')} of {len(pairs)}.")
        return [
            AnnotatedImage(
                pair.image,
                pair.labels,
                pair.kind,
                ignore=pair.ignore,
                objects=objects.get(pair.image.name),
            )
            for pair in pairs
        ]


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
