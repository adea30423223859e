"""A project that was opened, as layers, structures, settings and models of a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from napari_unetseg.core.config import TrainSettings
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.labels import BRUSH, LabelKind, Structure
from napari_unetseg.core.truth import Origin
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.session import Mode, Source
from napari_unetseg.io.contents import places_of
from napari_unetseg.io.names import as_stored

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_unetseg.core.truth import Truth
    from napari_unetseg.gui.controller import Controller
    from napari_unetseg.gui.session import ModelEntry
    from napari_unetseg.io.project import Project

__all__ = ["Restored"]


class Restored:
    """Puts what a project holds into a session; what is open already is used.

    Parameters
    ----------
    controller, project
        Where to, and from where.
    """

    def __init__(self, controller: Controller, project: Project) -> None:
        self._controller, self._project = controller, project
        self._session = controller.session

    def restore(self, entries: Sequence[ModelEntry]) -> tuple[dict[Any, str], tuple[str, ...]]:
        """Make layers and choose models.

        Returns
        -------
        keys
            The project's key of each image layer.
        missing
            Names of the images that were not found.
        """
        values = self._project.values
        keys: dict[Any, str] = {}
        self._structures(values)
        for key in self._project.truths:
            places = places_of(self._project.folder, self._described(key))
            if (image := self._restore(key, places, keys)) is not None:
                keys[image] = key
        self._renumbered(values.get("renumbered"))
        self._models(entries, values.get("in_use"))
        window = values.get("window") or {}
        chosen = next((i for i, key in keys.items() if key == window.get("image")), None)
        self._controller.choose_image(chosen or next(iter(keys), self._session.image))
        napari_layers.restore_window(self._controller.viewer, window)
        return keys, self._missing(keys)

    def find(
        self, keys: Mapping[Any, str], path: Path | None
    ) -> tuple[dict[Any, str], tuple[str, ...]]:
        """Look for images that were not found.

        Parameters
        ----------
        keys
            The project's key of each image layer that is there.
        path
            A file of one of them; others may have moved along with it. None: among what is open.

        Returns
        -------
        found
            The project's key of each image layer that is new.
        missing
            Names of those that were not found.
        """
        found: dict[Any, str] = {}
        for key in self._project.truths:
            known = {**keys, **found}
            if key not in known.values():
                image = self._restore(key, self._near(key, path), known)
                if image is not None:
                    found[image] = key
        return found, self._missing({**keys, **found})

    def _missing(self, keys: Mapping[Any, str]) -> tuple[str, ...]:
        lost = [key for key in self._project.truths if key not in keys.values()]
        return tuple(str(self._described(key).get("name", key)) for key in lost)

    def _restore(self, key: str, places: Sequence[Path], keys: Mapping[Any, str]) -> Image | None:
        """Make the layers of one image; None where it is not found."""
        described, truth = self._described(key), self._project.truths[key]
        image = self._image(described, truth, places, keys)
        if image is not None:
            self._labels(image, truth, described)
        return image

    def _near(self, key: str, path: Path | None) -> list[Path]:
        """A file, and where an image would be if it had moved along with it."""
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
        truth: Truth,
        places: Sequence[Path],
        taken: Mapping[Any, str],
    ) -> Image | None:
        """The image layer: one that is open with the same pixels, or its file."""
        for layer in self._controller.images():
            if layer in taken or not self._fits(layer, truth):
                continue
            if _same_pixels(layer, described.get("fingerprint")):
                return layer
        reader = described.get("reader")
        reader = reader if isinstance(reader, str) else None
        for place in places:
            if place.exists():
                viewer = self._controller.viewer
                opened = napari_layers.open_images(viewer, place.resolve(), reader)
                found = [layer for layer in opened if self._fits(layer, truth)]
                known = described.get("fingerprint")
                same = [layer for layer in found if not known or _same_pixels(layer, known)]
                if same:
                    return same[0]
                for layer in opened:  # another picture under this name: not what was painted on
                    viewer.layers.remove(layer)
        return None

    def _fits(self, image: Image, truth: Truth) -> bool:
        with suppress(UserError):
            return napari_layers.stack_of(image).grid_shape == truth.shape
        return False

    def _labels(self, image: Image, truth: Truth, described: Mapping[str, Any]) -> None:
        controller, session = self._controller, self._session
        controller.truths[image] = truth
        name = described.get("labels")
        if isinstance(name, str) or truth.grid(Origin.STROKES).cells():
            layer = napari_layers.strokes_layer(image, truth, session.structures, name)
            controller.known_labels[layer] = truth.grid(Origin.STROKES)
            kind = LabelKind(truth.kind)
            session.put_source(Source(image, layer, kind, chosen=True))
            controller.viewer.add_layer(layer)
        if truth.said():
            controller.begin_mask(image, "", session.structures)
            controller.end_masks()

    def _renumbered(self, models: Any) -> None:
        """What numbers of the project's models became."""
        with suppress(AttributeError, TypeError, ValueError):
            self._controller.renumber(
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
                self._controller.use_model(entry)


def _shown(number: Any) -> int:
    if type(number) is not int or not 0 < number <= BRUSH:
        raise ValueError("no structure has this number")
    return number


def _same_pixels(layer: Image, fingerprint: Any) -> bool:
    try:
        return bool(napari_layers.stack_of(layer).fingerprint() == fingerprint)
    except (UserError, OSError, ValueError):
        return False
