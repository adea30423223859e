"""Restoring of a project's layers, structures, settings and models."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from napari_unetseg.annotations.annotation_store import LabelSource
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import BACKGROUND_LABEL, LabelKind, Structure
from napari_unetseg.core.settings import TrainSettings
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.state.session import ImageSource, Mode
from napari_unetseg.io.file_names import as_stored
from napari_unetseg.io.project.locations import image_candidates

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels

    from napari_unetseg.annotations.annotation_store import ImageAnnotations
    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.services.image_sources import ImageSources
    from napari_unetseg.gui.services.mask_layers import MaskLayers
    from napari_unetseg.gui.services.session_models import SessionModels
    from napari_unetseg.gui.state.app_events import AppEvents
    from napari_unetseg.gui.state.session import ModelEntry, Session
    from napari_unetseg.io.project.project import Project


class ProjectLayers:
    """Restores a project in a session; matching open layers are reused.

    Parameters
    ----------
    kept
        Open images whose annotations are saved elsewhere, so that their layers may be removed.

    Attributes
    ----------
    reused
        Images whose annotation layer was open and may have unrecorded strokes.
    """

    def __init__(
        self,
        viewer: ViewerModel,
        session: Session,
        sources: ImageSources,
        annotations: Annotations,
        masks: MaskLayers,
        models: SessionModels,
        events: AppEvents,
        project: Project,
        kept: Collection[Any] = (),
    ) -> None:
        self._viewer, self._session, self._sources = viewer, session, sources
        self._annotations, self._masks, self._session_models = annotations, masks, models
        self._events, self._project, self._kept = events, project, kept
        self.reused: list[Image] = []

    def restore(self, entries: Sequence[ModelEntry]) -> tuple[dict[Any, str], tuple[str, ...]]:
        """Restore layers, settings and models.

        Returns
        -------
        keys
            The project's key of each image layer.
        missing
            Names of the images that were not found.
        """
        values = self._project.values
        self._structures(values)
        keys, missing = self.complete({})
        self._renumbered(values.get("renumbered"))
        self._models(entries, values.get("in_use"))
        window = values.get("window") or {}
        chosen = next((i for i, key in keys.items() if key == window.get("image")), None)
        self._sources.choose_image(chosen or next(iter(keys), self._session.image))
        napari_layers.restore_window(self._viewer, window)
        return keys, missing

    def complete(self, keys: Mapping[Any, str]) -> tuple[dict[Any, str], tuple[str, ...]]:
        """Restore the missing layers.

        Parameters
        ----------
        keys
            The project's key of each open image layer.

        Returns
        -------
        keys
            The keys of all image layers that are open now.
        missing
            Names of the images that were not found.
        """
        keys = dict(keys)
        for key in self._project.by_image:
            places = image_candidates(self._project.folder, self._described(key))
            if (image := self._restore(key, places, keys)) is not None:
                keys[image] = key
        return keys, self._missing(keys)

    def find(
        self, keys: Mapping[Any, str], path: Path | None
    ) -> tuple[dict[Any, str], tuple[str, ...]]:
        """Look for images that were not found.

        Parameters
        ----------
        keys
            The project's key of each open image layer.
        path
            A file of one of them; others may have moved with it. None searches open layers.

        Returns
        -------
        found
            The project's key of each image layer that is new.
        missing
            Names of the images that were not found.
        """
        found: dict[Any, str] = {}
        for key in self._project.by_image:
            known = {**keys, **found}
            if key not in known.values():
                image = self._restore(key, self._near(key, path), known)
                if image is not None:
                    found[image] = key
        return found, self._missing({**keys, **found})

    def _missing(self, keys: Mapping[Any, str]) -> tuple[str, ...]:
        lost = [key for key in self._project.by_image if key not in keys.values()]
        return tuple(str(self._described(key).get("name", key)) for key in lost)

    def _restore(self, key: str, places: Sequence[Path], keys: Mapping[Any, str]) -> Image | None:
        """Restore the layers of one image; None if it is not found."""
        described, annotated = self._described(key), self._project.by_image[key]
        known = (image for image, its in keys.items() if its == key)
        image = next(known, None) or self._image(described, annotated, places, keys)
        if image is not None:
            self._labels(image, annotated, described)
        return image

    def _near(self, key: str, path: Path | None) -> list[Path]:
        """A file, and the paths of an image if it moved with that file."""
        if path is None:
            return []
        before = self._described(key).get("path")
        beside = [as_stored(path.parent / Path(before).name)] if isinstance(before, str) else []
        return list(dict.fromkeys([path, *beside]))

    def _described(self, key: str) -> Mapping[str, Any]:
        described: Mapping[str, Any] = self._project.values.get("images", {}).get(key, {})
        return described

    def _structures(self, values: Mapping[str, Any]) -> None:
        session = self._session
        with suppress(UserError, TypeError, ValueError):
            found = tuple(Structure(**each) for each in values["structures"])
            session.structures = found or session.structures
        with suppress(ValidationError, KeyError):
            session.settings = TrainSettings.model_validate(values["settings"])
        with suppress(ValueError, KeyError):
            session.mode = Mode(values["mode"])
        session.match_spacing = "auto" if values.get("match_spacing") else False

    def _image(
        self,
        described: Mapping[str, Any],
        annotated: ImageAnnotations,
        places: Sequence[Path],
        taken: Mapping[Any, str],
    ) -> Image | None:
        """The image layer: an open one with the same pixels, or one read from its file."""
        for layer in self._sources.images():
            if layer in taken or not self._fits(layer, annotated):
                continue
            if _same_pixels(layer, described.get("fingerprint")):
                return layer
        reader = described.get("reader")
        reader = reader if isinstance(reader, str) else None
        for place in places:
            if place.exists():
                viewer = self._viewer
                opened = napari_layers.open_images(viewer, place.resolve(), reader)
                found = [layer for layer in opened if self._fits(layer, annotated)]
                known = described.get("fingerprint")
                same = [layer for layer in found if not known or _same_pixels(layer, known)]
                if same:
                    return same[0]
                for layer in opened:  # the pixels under this name differ from those annotated
                    viewer.layers.remove(layer)
        return None

    def _fits(self, image: Image, annotated: ImageAnnotations) -> bool:
        with suppress(UserError):
            return napari_layers.grid_shape(image) == annotated.shape
        return False

    def _labels(
        self, image: Image, annotated: ImageAnnotations, described: Mapping[str, Any]
    ) -> None:
        session, annotations = self._session, self._annotations
        source, masked = session.source(image) or ImageSource(image), False
        if annotations.by_image.get(image) is not annotated:
            masked = self._detach(image, annotated)
            annotations.by_image[image] = annotated
        elif source.labels is not None:
            return
        name = described.get("labels")
        name = name if isinstance(name, str) else None
        if name is not None or annotated.grid(LabelSource.STROKES).cells():
            layer = self._open_labels(image, annotated, source.labels, name)
            new = layer or napari_layers.strokes_layer(image, annotated, session.structures, name)
            annotations.known_labels[new] = annotated.grid(LabelSource.STROKES)
            kind = LabelKind(annotated.kind)
            session.put_source(replace(source, labels=new, kind=kind, chosen=True))
            if layer is None:
                self._viewer.add_layer(new)
        if annotated.labelled_planes() or masked:
            self._masks.open(image, "", session.structures).close()

    def _detach(self, image: Image, annotated: ImageAnnotations) -> bool:
        """Detach an image's annotations and mask layers; return whether it had annotations."""
        told = (self._annotations.by_image.get(image), annotated)
        self._events.image_removed.emit(image)
        known = self._masks.known_masks.items()
        masks = [m for m, its in known if its in told and m in self._viewer.layers]
        for mask in masks:
            napari_layers.remove_layer(self._viewer, mask)
        return bool(masks)

    def _open_labels(
        self, image: Image, annotated: ImageAnnotations, labels: Labels | None, name: str | None
    ) -> Labels | None:
        """The layer that already holds an image's strokes; its other ones are detached."""
        named = [layer for layer in self._sources.labels_candidates() if layer.name == name]
        for layer in dict.fromkeys([labels, *named]):
            if layer is not None and self._holds(image, layer, annotated):
                self.reused.append(image)
                return layer
        if labels is not None and labels in self._viewer.layers:
            ours = napari_layers.image_of(labels) is image
            if ours and (image in self._kept or not napari_layers.is_painted(labels)):
                napari_layers.remove_layer(self._viewer, labels)
            else:
                labels.visible = False
        return None

    def _holds(self, image: Image, layer: Labels, annotated: ImageAnnotations) -> bool:
        """Whether a layer holds an image's strokes, or did until its image was closed."""
        grid = annotated.grid(LabelSource.STROKES)
        if napari_layers.misalignment_text(image, layer):
            return False
        data = napari_layers.voxels_of(image, layer)
        if not isinstance(data, np.ndarray) or data.dtype.newbyteorder("=") != grid.dtype:
            return False
        known = self._annotations.known_labels.get(layer) is grid
        return known or next(iter(grid.differing(data)), None) is None

    def _renumbered(self, models: Any) -> None:
        """Renumbering of the project's models."""
        with suppress(AttributeError, TypeError, ValueError):
            self._masks.renumber(
                {
                    str(model): {_shown(int(n)): _shown(other) for n, other in numbers.items()}
                    for model, numbers in models.items()
                }
            )

    def _models(self, entries: Sequence[ModelEntry], in_use: Any) -> None:
        known = {entry.model.id for entry in self._session.history}
        new = [entry for entry in entries if entry.model.id not in known]
        self._session.history = (*self._session.history, *new)
        for entry in self._session.history:
            if entry.model.id == in_use:
                self._session_models.use(entry)


def _shown(number: Any) -> int:
    if type(number) is not int or not 0 < number <= BACKGROUND_LABEL:
        raise ValueError("no structure has this number")
    return number


def _same_pixels(layer: Image, fingerprint: Any) -> bool:
    try:
        return bool(napari_layers.stack_of(layer).fingerprint() == fingerprint)
    except (UserError, OSError, ValueError):
        return False
