"""Chosen images, channels and labels; added and removed layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from napari.layers import Image, Labels

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.label_appearance import classify_labels
from napari_unetseg.core.labels import OBJECT_KINDS, LabelKind, Structure
from napari_unetseg.data.image_grids import guess_kind, thinned_counts
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.services.label_problems import conversions_of, describe_appearance, is_grey
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.refusal import refusing
from napari_unetseg.gui.state.session import ImageSource, Level, Session

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.label_appearance import LabelAppearance
    from napari_unetseg.gui.services.annotations import Annotations
    from napari_unetseg.gui.state.app_events import AppEvents


class ImageSources:
    """Keeps the session's images and labels in step with the viewer's layers and the user's choice.

    Attributes
    ----------
    labels_of
        The image that a layer holds, or last held, the labels of.
    seen
        Values of labels that were not made here, and their appearance.
    """

    def __init__(
        self, viewer: ViewerModel, session: Session, annotations: Annotations, events: AppEvents
    ) -> None:
        self._viewer, self._session = viewer, session
        self._annotations, self._events = annotations, events
        self.labels_of: WeakKeyDictionary[Labels, ref[Image]] = WeakKeyDictionary()
        self.seen: WeakKeyDictionary[Labels, tuple[Mapping[int, int], LabelAppearance | None]] = (
            WeakKeyDictionary()
        )
        self._guessed: Labels | None = None
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)
        session.events.structures.connect(self._recolor)
        session.events.sources.connect(self._on_sources, max_args=0)
        events.pixels_changed.connect(self._on_pixels_changed)
        events.closed.connect(self._on_closed)

    def choose_first(self) -> None:
        """Choose the first of the open images."""
        active = self._viewer.layers.selection.active
        images = self.images()
        if images:
            self.choose_image(active if active in images else images[0])

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Mark that layers are being opened or restored, so that no job starts meanwhile.

        napari processes events while it opens a file: the window's timer, clicks, inserted layers.
        """
        outermost, self._session.opening = not self._session.opening, True
        try:
            yield
        finally:
            if outermost:
                self._session.opening = False
                self._choose_inserted()

    # -- what there is to choose from ----------------------------------------------------------

    def images(self) -> list[Image]:
        """Image layers of the viewer."""
        images = [layer for layer in self._viewer.layers if isinstance(layer, Image)]
        return [image for image in images if not napari_layers.is_overlay(image)]

    def channel_candidates(self) -> list[Image]:
        """Layers that could be further channels of the chosen image."""
        image = self._session.image
        if image is None or image.rgb:
            return []
        shape = tuple(image.data.shape)
        return [
            other
            for other in self.images()
            if other is not image and not other.rgb and tuple(other.data.shape) == shape
        ]

    def labels_candidates(self) -> list[Labels]:
        """Labels layers that could be labels of the chosen image, except results of the plugin."""
        return [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, Labels) and not napari_layers.is_ours(layer)
        ]

    def mask_candidates(self) -> list[Labels]:
        """Labels layers aligned with the chosen image, which can be exported as its masks."""
        image = self._session.image
        return [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, Labels)
            and image is not None
            and _aligned(image, layer)
            and not napari_layers.is_overlay(layer)
        ]

    def stack(self) -> Stack:
        """The chosen image with its channels; raises `UserError` when there is none."""
        if self._session.image is None:
            raise UserError(messages.NO_IMAGE)
        source = self._session.source()
        return napari_layers.stack_of(self._session.image, source.channels if source else ())

    def has_volumes(self) -> bool:
        """Whether the chosen image can be segmented in 3D."""
        image = self._session.image
        try:
            return image is not None and napari_layers.stack_of(image).grid_axes.endswith("ZYX")
        except UserError:
            return False

    def free_labels(self) -> list[Labels]:
        """Visible Labels layers that are not, and never were, another image's labels.

        Hidden ones, such as masks from the image's own file, must be chosen by the user.
        """
        image = self._session.image
        return [
            layer
            for layer in self.labels_candidates()
            if layer.visible and (layer not in self.labels_of or self.labels_of[layer]() is image)
        ]

    # -- choosing ------------------------------------------------------------------------------

    def choose_image(self, image: Image | None) -> None:
        """Choose the image to work on, with its labels."""
        session = self._session
        if image is session.image:
            return
        session.image = image
        if image is None:
            return
        source = session.source()
        if source is None:
            session.put_source(ImageSource(image))
        with refusing(self._session):
            self.stack()
        if session.settings.dims == 3 and not self.has_volumes():
            session.change_settings(dims=2, depth=None)
        source = session.source()
        if source is None or source.labels is None:
            self.adopt_labels()

    def choose_channels(self, channels: Sequence[Image]) -> None:
        """Use further layers as channels of the chosen image."""
        with refusing(self._session):
            if channels:
                napari_layers.check_channels(self._session.image, channels)
            self._session.change_source(channels=tuple(channels))

    def choose_dims(self, dims: int) -> None:
        """Switch between 2D planes and 3D volumes."""
        with refusing(self._session):
            if self._session.image is not None:
                self.stack().check_dims(dims)
            if dims != self._session.settings.dims:  # 2D and 3D have different default depths
                self._session.change_settings(dims=dims, depth=None)

    def new_annotation(self) -> Labels | None:
        """Make an annotation layer for the chosen image and select a brush."""
        layer: Labels | None = None
        with refusing(self._session):
            if self._session.opening:
                raise UserError(messages.BUSY)
            stack = self.stack()
            layer = napari_layers.new_annotation(
                self._viewer, self._session.image, self._session.structures
            )
            self.choose_labels(layer, LabelKind.STROKES)
            self._session.brush = layer.selected_label
            self._session.say(
                f"Paint a few strokes on a structure of {stack.name}, then click 'background' "
                "and paint some there."
            )
        return layer

    def are_grey(self, labels: Labels | None) -> bool:
        """Whether labels are grey levels, so that no value is a structure."""
        return labels is not None and is_grey(self.seen.get(labels, ({}, None))[1])

    def choose_labels(
        self, labels: Labels | None, kind: LabelKind | None = None, *, found: bool = False
    ) -> None:
        """Use a Labels layer as labels of the chosen image, or none.

        Its kind is guessed if not given. Labels that were ``found`` keep their colours until the
        user selects a brush for them.
        """
        session = self._session
        if session.image is None:
            session.say(messages.NO_IMAGE, Level.WARNING)
            return
        if labels is not None and not _same_shape(session.image, labels):
            session.say(napari_layers.misalignment_text(session.image, labels), Level.WARNING)
            session.events.sources.emit(session.sources, session.sources)
            return
        before = session.source()
        if labels is None and before is not None and before.labels is not None:
            self.labels_of.pop(before.labels, None)  # so that another image can use it
        self._guessed = None
        if labels is not None and kind is None:
            kind = napari_layers.declared_kind(labels) or self._guess(labels)
        ours = labels is not None and napari_layers.is_declared(labels)
        session.change_source(
            labels=labels, kind=kind or LabelKind.STROKES, chosen=ours or not found
        )
        if labels is not None and kind not in OBJECT_KINDS:
            self._learn_names(labels)
        self._recolor(session.structures)
        self._events.labels_touched.emit()

    def adopt_labels(self) -> None:
        """Choose the only free Labels layer that is aligned with the chosen image as its labels."""
        source = self._session.source()
        if self._session.image is None or (source is not None and source.labels is not None):
            return
        if source is not None and source.chosen:  # the user chose none
            return
        fitting = [layer for layer in self.free_labels() if _aligned(self._session.image, layer)]
        if len(fitting) == 1:
            self.choose_labels(fitting[0], found=True)

    def _guess(self, labels: Labels) -> LabelKind:
        """Guess the kind of labels from a sample, and report anything unusual."""
        data = napari_layers.data_of(labels)
        counts, size = thinned_counts(data)
        appearance = classify_labels(data) if counts else None
        kind = guess_kind(counts, size, appearance)
        self.seen[labels], self._guessed = (counts, appearance), labels
        if text := describe_appearance(labels.name, counts, appearance, kind):
            odd = bool(conversions_of(counts, appearance, kind))
            self._session.say(text, Level.WARNING if odd else Level.INFO)
        return kind

    def note_counts(
        self,
        labels: Labels,
        counts: Mapping[int, int],
        size: int,
        appearance: LabelAppearance | None,
    ) -> LabelKind | None:
        """Update the guess about the chosen labels with their full counts.

        Parameters
        ----------
        labels, counts, size
            The labels, voxels of each number but 0, and the number of all voxels.
        appearance
            Their appearance; None if it was not determined.

        Returns
        -------
        LabelKind or None
            The new guess; None if it is unchanged.
        """
        kind = self._guess_again(counts, size) if labels is self._guessed else None
        if labels in self.seen:
            self.seen[labels] = counts, appearance or self.seen[labels][1]
        return kind

    def _guess_again(self, counts: Mapping[int, int], size: int) -> LabelKind | None:
        source, guessed = self._session.source(), self._guessed
        self._guessed = None
        if source is None or guessed is None or source.labels is not guessed:
            return None
        kind = guess_kind(counts, size, self.seen[guessed][1])
        if kind == source.kind:
            return None
        self._session.change_source(kind=kind)
        self._recolor(self._session.structures)
        return kind

    def choose_kind(self, kind: LabelKind) -> None:
        """Set the kind of the chosen labels."""
        source = self._session.source()
        self._guessed = None
        if source is not None and source.kind != kind:
            self._session.change_source(kind=kind)
            self._events.labels_touched.emit()
            if source.labels in self.seen and conversions_of(*self.seen[source.labels], kind):
                text = describe_appearance(source.labels.name, *self.seen[source.labels], kind)
                self._session.say(text, Level.WARNING)

    def add_folders(
        self, images: Path, labels: Path, kind: LabelKind, threshold: float | None = None
    ) -> None:
        """Add a folder of images and a folder of labels, paired by stem, to the training data."""
        self._session.put_source(ImageSource(images, labels, kind, threshold=threshold))

    def use_source(self, source: ImageSource, used: bool) -> None:
        """Include a source in training, or exclude it."""
        changed = replace(source, used=used)
        self._session.sources = tuple(changed if s is source else s for s in self._session.sources)

    def remove_source(self, source: ImageSource) -> None:
        """Remove a source from training; its layers and files are kept."""
        if source.image is self._session.image:
            self.choose_labels(None)
        else:
            self._session.sources = tuple(s for s in self._session.sources if s is not source)

    # -- names and colours ---------------------------------------------------------------------

    def adopt_colors(self) -> None:
        """Show the chosen labels in the structures' colours, even if the plugin chose them."""
        source = self._session.source()
        if source is not None and source.labels is not None and not source.chosen:
            self._session.change_source(chosen=True)
            self._recolor(self._session.structures)

    def _learn_names(self, labels: Labels) -> None:
        names = napari_layers.names_in(labels)
        self._session.know(list(names), names)

    def _recolor(self, structures: Sequence[Structure]) -> None:
        """Update colours and names in all layers in use from the list."""
        for source in self._session.sources:
            if source.labels is None or source.on_disk or source.kind in OBJECT_KINDS:
                continue
            if source.chosen:
                napari_layers.paint_colors(source.labels, structures)
            else:
                napari_layers.write_names(source.labels, structures)

    # -- layers that come and go ---------------------------------------------------------------

    def _on_inserted(self, event: Any) -> None:
        layer = event.value
        if self._session.opening:
            return
        if isinstance(layer, Image) and self._session.image is None:
            if not napari_layers.is_overlay(layer):
                self.choose_image(layer)
        elif isinstance(layer, Labels):
            self.adopt_labels()

    def _choose_inserted(self) -> None:
        """Choose layers that were added while nothing could be chosen."""
        if self._session.image is None and (images := self.images()):
            self.choose_image(images[0])
        else:
            self.adopt_labels()

    def _on_removed(self, event: Any) -> None:
        layer, session = event.value, self._session
        if isinstance(layer, Image):
            self._events.image_removed.emit(layer)
        session.sources = tuple(
            replace(
                s,
                labels=None if s.labels is layer else s.labels,
                chosen=s.chosen and s.labels is not layer,
                channels=tuple(c for c in s.channels if c is not layer),
            )
            if layer in s.layers
            else s
            for s in session.sources
            if s.image is not layer
        )
        if layer is session.image:
            images = self.images()
            self.choose_image(images[0] if images else None)

    def _on_sources(self) -> None:
        for source in self._session.sources:
            if source.labels is not None and not source.on_disk:
                self.labels_of[source.labels] = ref(source.image)

    def _on_pixels_changed(self, image: Any) -> None:
        """Detach an image's annotations from a layer whose pixels were replaced."""
        session = self._session
        with refusing(session):
            shape, known = napari_layers.grid_shape(image), self._annotations.by_image.get(image)
            if known is not None and known.shape != shape:
                self._reset_image(image, shape)
        session.events.sources.emit(session.sources, session.sources)

    def _reset_image(self, image: Any, shape: tuple[int, ...]) -> None:
        """Reset an image whose shape changed."""
        session = self._session
        self._events.image_removed.emit(image)
        session.sources = tuple(
            replace(source, labels=None, chosen=False) if source.image is image else source
            for source in session.sources
        )
        if session.settings.dims == 3 and not self.has_volumes():
            session.change_settings(dims=2, depth=None)
        size = " × ".join(map(str, shape))
        session.say(messages.OTHER_IMAGE.format(image.name, size), Level.WARNING)

    def _on_closed(self) -> None:
        self._viewer.layers.events.inserted.disconnect(self._on_inserted)
        self._viewer.layers.events.removed.disconnect(self._on_removed)


def _aligned(image: Image, layer: Labels) -> bool:
    return napari_layers.alignment(image, layer) is napari_layers.Alignment.ALIGNED


def _same_shape(image: Image, layer: Labels) -> bool:
    return napari_layers.alignment(image, layer) is not napari_layers.Alignment.OTHER_SHAPE
