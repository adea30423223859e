"""What the user chooses: images, channels, labels, structures; and layers that come and go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from napari.layers import Image, Labels
from pydantic import ValidationError

from napari_unetseg.annotations.annotation_store import Change, Origin, Truth
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.label_appearance import look_at
from napari_unetseg.core.labels import BRUSH, LabelKind, Structure
from napari_unetseg.data.image_grids import guess_kind, thinned_counts
from napari_unetseg.gui import layers as napari_layers
from napari_unetseg.gui.services.label_problems import describe_look, remedies_of
from napari_unetseg.gui.state import messages
from napari_unetseg.gui.state.session import Level, Session, Source

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_unetseg.annotations.sparse_array import SparseGrid
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.label_appearance import Look
    from napari_unetseg.gui.layers import Prediction, Strokes

__all__ = ["Choices"]


class Choices:
    """Keeps the session in step with the viewer's layers and with what the user picks.

    Parameters
    ----------
    viewer
        The viewer, or its Qt-free model.
    session
        Where everything is remembered.
    """

    def __init__(self, viewer: ViewerModel, session: Session) -> None:
        self.viewer, self.session = viewer, session
        self.predictions: dict[Any, Prediction] = {}
        self.truths: dict[Any, Truth] = {}
        self.doubts: set[Prediction | Strokes] = set()
        self.strokes: dict[Any, Strokes] = {}
        self.known_labels: WeakKeyDictionary[Labels, SparseGrid] = WeakKeyDictionary()
        """What is known of layers that are no labels at the moment, or were made from it."""
        self.labels_of: WeakKeyDictionary[Labels, ref[Image]] = WeakKeyDictionary()
        """The image that a layer holds, or last held, the labels of."""
        self.known_masks: WeakKeyDictionary[Labels, Truth] = WeakKeyDictionary()
        """What is known of the image of a mask that is a result by now."""
        self.is_opening = False
        self.renumbered: dict[str, dict[int, int]] = {}
        """Structures of a model, by its id, that were merged into others or deleted since."""
        self.seen: WeakKeyDictionary[Labels, tuple[Mapping[int, int], Look | None]] = (
            WeakKeyDictionary()
        )
        """Values of labels that came from elsewhere, and what they look like."""
        self.labels_changed = False
        self._watched: Labels | None = None
        self._guessed: Labels | None = None
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)
        session.events.structures.connect(self._recolor)
        session.events.sources.connect(self._follow_strokes)
        active = viewer.layers.selection.active
        images = self.images()
        if images:
            self.choose_image(active if active in images else images[0])

    def disconnect(self) -> None:
        """Listen to the viewer no more."""
        self.viewer.layers.events.inserted.disconnect(self._on_inserted)
        self.viewer.layers.events.removed.disconnect(self._on_removed)
        self.session.events.sources.disconnect(self._follow_strokes)
        for strokes in self.strokes.values():
            strokes.end()
        for prediction in self.predictions.values():
            prediction.end()
        self._watch(None)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Turn a refusal into a sentence in the status line."""
        try:
            yield
        except (UserError, ValidationError) as error:
            self.session.say(messages.explain(error, "This"), Level.WARNING)

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Layers are opened or restored: nothing else begins until they are all there.

        napari handles events while it opens a file: the window's timer, clicks, layers that come.
        """
        outermost, self.is_opening = not self.is_opening, True
        try:
            yield
        finally:
            if outermost:
                self.is_opening = False
                self._choose_what_came()

    # -- what there is to choose from ----------------------------------------------------------

    def images(self) -> list[Image]:
        """Image layers of the viewer."""
        images = [layer for layer in self.viewer.layers if isinstance(layer, Image)]
        return [image for image in images if not napari_layers.is_overlay(image)]

    def channel_candidates(self) -> list[Image]:
        """Layers that could be further channels of the chosen image."""
        image = self.session.image
        if image is None or image.rgb:
            return []
        shape = tuple(image.data.shape)
        return [
            other
            for other in self.images()
            if other is not image and not other.rgb and tuple(other.data.shape) == shape
        ]

    def labels_candidates(self) -> list[Labels]:
        """Labels layers that could be the chosen image's labels; results of ours are none."""
        return [
            layer
            for layer in self.viewer.layers
            if isinstance(layer, Labels) and not napari_layers.is_ours(layer)
        ]

    def masks(self) -> list[Labels]:
        """Labels layers that lie over the chosen image, which can be exported as its masks."""
        image = self.session.image
        return [
            layer
            for layer in self.viewer.layers
            if isinstance(layer, Labels)
            and image is not None
            and _aligned(image, layer)
            and not napari_layers.is_overlay(layer)
        ]

    def stack(self) -> Stack:
        """The chosen image with its channels; raises `UserError` when there is none."""
        if self.session.image is None:
            raise UserError(messages.NO_IMAGE)
        source = self.session.source()
        return napari_layers.stack_of(self.session.image, source.channels if source else ())

    def has_volumes(self) -> bool:
        """Whether the chosen image can be segmented in 3D."""
        image = self.session.image
        try:
            return image is not None and napari_layers.stack_of(image).grid_axes.endswith("ZYX")
        except UserError:
            return False

    @property
    def prediction(self) -> Prediction | None:
        """The prediction of the chosen image, if there was one."""
        return self.predictions.get(self.session.image)

    # -- choosing ------------------------------------------------------------------------------

    def choose_image(self, image: Image | None) -> None:
        """Choose the image to work on; its labels come with it."""
        session = self.session
        if image is session.image:
            return
        session.image = image
        if image is None:
            self._watch(None)
            return
        source = session.source()
        if source is None:
            session.put_source(Source(image))
        with self.refusing():
            self.stack()
        if session.settings.dims == 3 and not self.has_volumes():
            session.change_settings(dims=2, depth=None)
        source = session.source()
        if source is None or source.labels is None:
            self.adopt_labels()
        else:
            self._watch(source.labels)

    def choose_channels(self, channels: Sequence[Image]) -> None:
        """Use further layers as channels of the chosen image."""
        with self.refusing():
            if channels:
                napari_layers.check_channels(self.session.image, channels)
            self.session.change_source(channels=tuple(channels))

    def choose_dims(self, dims: int) -> None:
        """Work on 2D planes or on 3D volumes."""
        with self.refusing():
            if self.session.image is not None:
                self.stack().check_dims(dims)
            if dims != self.session.settings.dims:  # planes and volumes want other depths
                self.session.change_settings(dims=dims, depth=None)

    def new_annotation(self) -> Labels | None:
        """Make an annotation layer for the chosen image and put a brush in the user's hand."""
        layer: Labels | None = None
        with self.refusing():
            if self.is_opening:
                raise UserError(messages.BUSY)
            stack = self.stack()
            layer = napari_layers.new_annotation(
                self.viewer, self.session.image, self.session.structures
            )
            self.choose_labels(layer, LabelKind.STROKES)
            self.session.brush = layer.selected_label
            self.session.say(
                f"Draw a few strokes on a structure of {stack.name}, then click 'background' and "
                "draw some there."
            )
        return layer

    def choose_labels(
        self, labels: Labels | None, kind: LabelKind | None = None, *, found: bool = False
    ) -> None:
        """Use a Labels layer as labels of the chosen image, or none.

        Its kind is guessed if not said. Of labels that were ``found`` the colours stay as they are
        until the user takes a brush for them.
        """
        session = self.session
        if session.image is None:
            session.say(messages.NO_IMAGE, Level.WARNING)
            return
        if labels is not None and not _same_shape(session.image, labels):
            session.say(napari_layers.misfit(session.image, labels), Level.WARNING)
            session.events.sources.emit(session.sources, session.sources)
            return
        before = session.source()
        if labels is None and before is not None and before.labels is not None:
            self.labels_of.pop(before.labels, None)  # so that another image may take it
        self._guessed = None
        if labels is not None and kind is None:
            kind = napari_layers.declared_kind(labels) or self._guess(labels)
        ours = labels is not None and napari_layers.is_declared(labels)
        session.change_source(
            labels=labels, kind=kind or LabelKind.STROKES, chosen=ours or not found
        )
        if labels is not None and kind is not LabelKind.INSTANCES:
            self._learn_names(labels)
        self._recolor(session.structures)
        self._watch(labels)

    def _guess(self, labels: Labels) -> LabelKind:
        """Guess the kind of labels from a first look, and say what is odd about them."""
        data = napari_layers.data_of(labels)
        counts, size = thinned_counts(data)
        look = look_at(data) if counts else None
        kind = guess_kind(counts, size, look)
        self.seen[labels], self._guessed = (counts, look), labels
        if text := describe_look(labels.name, counts, look, kind):
            odd = bool(remedies_of(counts, look, kind))
            self.session.say(text, Level.WARNING if odd else Level.INFO)
        return kind

    def _guess_again(self, counts: Mapping[int, int], size: int) -> LabelKind | None:
        """Guess the kind once more when all was counted, where only a part had been seen."""
        source, guessed = self.session.source(), self._guessed
        self._guessed = None
        if source is None or guessed is None or source.labels is not guessed:
            return None
        kind = guess_kind(counts, size, self.seen[guessed][1])
        if kind == source.kind:
            return None
        self.session.change_source(kind=kind)
        self._recolor(self.session.structures)
        return kind

    def choose_kind(self, kind: LabelKind) -> None:
        """Say what the numbers of the chosen labels mean."""
        source = self.session.source()
        self._guessed = None
        if source is not None and source.kind != kind:
            self.session.change_source(kind=kind)
            self.labels_changed = True
            if source.labels in self.seen and remedies_of(*self.seen[source.labels], kind):
                text = describe_look(source.labels.name, *self.seen[source.labels], kind)
                self.session.say(text, Level.WARNING)

    def add_folders(
        self, images: Path, labels: Path, kind: LabelKind, threshold: float | None = None
    ) -> None:
        """Train on a folder of images and a folder of labels too; they pair by their stem."""
        self.session.put_source(Source(images, labels, kind, threshold=threshold))

    def use_source(self, source: Source, used: bool) -> None:
        """Use a source for training or not."""
        changed = replace(source, used=used)
        self.session.sources = tuple(changed if s is source else s for s in self.session.sources)

    def remove_source(self, source: Source) -> None:
        """Take a source out of the training; its layers and files stay."""
        if source.image is self.session.image:
            self.choose_labels(None)
        else:
            self.session.sources = tuple(s for s in self.session.sources if s is not source)

    # -- structures ----------------------------------------------------------------------------

    def choose_brush(self, number: int) -> None:
        """Put a structure's brush in the user's hand, on the layer at hand."""
        self.session.brush = number
        source, prediction = self.session.source(), self.prediction
        active = self.viewer.layers.selection.active
        if prediction is not None and prediction.alive and active is prediction.layer:
            napari_layers.activate_brush(self.viewer, active, 0 if number == BRUSH else number)
        elif source is not None and source.labels is not None:
            if not source.chosen:
                self.session.change_source(chosen=True)
                self._recolor(self.session.structures)
            napari_layers.activate_brush(self.viewer, source.labels, number)
        else:
            self.session.say(messages.NO_LABELS, Level.WARNING)

    def add_structure(self) -> None:
        """Add a structure with the next free number."""
        numbers = {s.number for s in self.session.structures}
        free = next((n for n in range(1, BRUSH) if n not in numbers), None)
        if free is None:
            self.session.say("There are 254 structures, which is all there can be.", Level.WARNING)
            return
        self.session.structures = (*self.session.structures, Structure(free))
        source = self.session.source()
        if source is not None and source.labels is not None:
            self.choose_brush(free)

    def rename_structure(self, number: int, name: str) -> None:
        """Give a structure another name."""
        self.session.structures = tuple(
            replace(s, name=name.strip()) if s.number == number else s
            for s in self.session.structures
        )

    def know(self, numbers: Sequence[int], names: dict[int, str] | None = None) -> None:
        """Add the structures that were found in labels, or in a model, under their number."""
        names, known = names or {}, {s.number: s for s in self.session.structures}
        for number in numbers:
            if 1 <= number < BRUSH and number not in known:
                known[number] = Structure(number, names.get(number, ""))
        for number, name in names.items():
            if number in known and known[number].name == f"structure {number}":
                known[number] = replace(known[number], name=name)
        structures = tuple(known[n] for n in sorted(known))
        if structures != self.session.structures:
            self.session.structures = structures

    def _learn_names(self, labels: Labels) -> None:
        names = napari_layers.names_in(labels)
        self.know(list(names), names)

    def _recolor(self, structures: Sequence[Structure]) -> None:
        """Colours and names in every layer at hand follow the list."""
        for source in self.session.sources:
            if source.labels is None or source.on_disk or source.kind is LabelKind.INSTANCES:
                continue
            if source.chosen:
                napari_layers.paint_colors(source.labels, structures)
            else:
                napari_layers.write_names(source.labels, structures)
        for prediction in self.predictions.values():
            if prediction.alive and prediction.layer is not None:
                napari_layers.paint_colors(prediction.layer, structures)

    # -- what people say -----------------------------------------------------------------------

    def truth(self, image: Image) -> Truth:
        """All that was said about an image."""
        if image not in self.truths:
            shape = napari_layers.stack_of(image).grid_shape
            self.truths[image] = Truth(shape)
        return self.truths[image]

    def on_change(self, image: Image, change: Change) -> None:  # noqa: ARG002 - for who keeps it
        """Something was said about an image, and taken down."""
        if change.origin is not Origin.FIRST:
            self.labels_changed = True

    def on_adopted(self, image: Image) -> None:
        """The strokes of an image began anew, with those of another layer."""

    def on_kind(self, image: Image) -> None:
        """The numbers in an image's labels mean something else now."""

    def on_doubt(self, which: Prediction | Strokes) -> None:
        """Something may have changed that only a search can find; `tick` has it made."""
        self.doubts.add(which)

    def forget(self, image: Image) -> None:
        """Know nothing of an image any more: it is gone, or its layer holds another one now."""
        self._end_strokes(image)
        if (prediction := self.predictions.pop(image, None)) is not None:
            if prediction.layer is not None:
                self.known_masks[prediction.layer] = prediction.truth
            prediction.let_go()
        self.truths.pop(image, None)

    def _end_strokes(self, image: Image) -> None:
        """Listen no more to what is painted in the annotation layer of an image."""
        if (gone := self.strokes.pop(image, None)) is not None:
            gone.end()
            if gone.lasts:
                self.known_labels[gone.layer] = gone.truth.grid(Origin.STROKES)

    def _follow_strokes(self) -> None:
        """Take down what is painted in every annotation layer that is in use."""
        wanted = {s.image: s for s in self.session.sources if s.labels and not s.on_disk}
        for image in [i for i, s in self.strokes.items() if not _serves(s, wanted.get(i))]:
            self._end_strokes(image)
            if image not in wanted and image in self.truths:
                self.truths[image].put_strokes_away()
                self.labels_changed = True
        for image, source in wanted.items():
            truth = self.truth(image)
            if image in self.strokes:
                if truth.kind != source.kind:
                    truth.kind = source.kind
                    self.on_kind(image)
                continue
            self.strokes[image] = self._follow(image, source, truth)

    def _follow(self, image: Any, source: Source, truth: Truth) -> Strokes:
        """Listen to an annotation layer; one that was there before goes on where it was."""
        grid, away = truth.grid(Origin.STROKES), truth.strokes_are_away
        known = self.known_labels.get(source.labels) is grid and grid.dtype == source.labels.dtype
        tell = partial(self.on_change, image)
        strokes = napari_layers.Strokes(source.labels, truth, source.kind, tell, known=known)
        strokes.on_doubt = partial(self.on_doubt, strokes)
        strokes.on_other = partial(self._on_other, image, source.labels)
        self.labels_of[source.labels] = ref(image)
        if not known:
            self.on_adopted(image)
        elif truth.kind != source.kind:
            truth.kind = source.kind
            self.on_kind(image)
        if known and away:
            strokes.look_again()
        return strokes

    def _on_other(self, image: Any, labels: Labels, fits: bool) -> None:
        """An annotation layer was given another array, of other numbers or of another shape."""
        if fits:
            self.on_adopted(image)
            return
        self.session.sources = tuple(
            replace(s, labels=None, chosen=True) if s.labels is labels else s
            for s in self.session.sources
        )
        if labels is self._watched:
            self._watch(None)
        self.session.say(messages.LABELS_UNFIT.format(labels.name, image.name), Level.WARNING)

    # -- layers that come and go ---------------------------------------------------------------

    def _on_inserted(self, event: Any) -> None:
        layer = event.value
        if self.is_opening:
            return
        if isinstance(layer, Image) and self.session.image is None:
            if not napari_layers.is_overlay(layer):
                self.choose_image(layer)
        elif isinstance(layer, Labels):
            self.adopt_labels()

    def _choose_what_came(self) -> None:
        """Choose what came while nothing could be chosen."""
        if self.session.image is None and (images := self.images()):
            self.choose_image(images[0])
        else:
            self.adopt_labels()

    def _on_removed(self, event: Any) -> None:
        layer, session = event.value, self.session
        for prediction in self.predictions.values():
            if prediction.layer is layer:
                prediction.end()
        if isinstance(layer, Image):
            self.forget(layer)
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
        if layer is self._watched:
            self._watch(None)
        if layer is session.image:
            images = self.images()
            self.choose_image(images[0] if images else None)

    def free_labels(self) -> list[Labels]:
        """Labels layers that are seen and are, or were, no other image's labels.

        Hidden ones, such as masks in the image's own file, are there to be chosen.
        """
        image = self.session.image
        return [
            layer
            for layer in self.labels_candidates()
            if layer.visible and (layer not in self.labels_of or self.labels_of[layer]() is image)
        ]

    def adopt_labels(self) -> None:
        """Take the only free Labels layer that lies over the chosen image as its labels."""
        source = self.session.source()
        if self.session.image is None or (source is not None and source.labels is not None):
            return
        if source is not None and source.chosen:  # none, and on purpose
            self._watch(None)
            return
        fitting = [layer for layer in self.free_labels() if _aligned(self.session.image, layer)]
        if len(fitting) == 1:
            self.choose_labels(fitting[0], found=True)
        else:
            self._watch(None)

    def _watch(self, labels: Labels | None) -> None:
        """Count again whenever the chosen labels are painted on."""
        if self._watched is not None:
            self._watched.events.paint.disconnect(self._on_painted)
            self._watched.events.set_data.disconnect(self._on_painted)
        self._watched = labels
        if labels is not None:
            labels.events.paint.connect(self._on_painted)
            labels.events.set_data.connect(self._on_painted)
        self.labels_changed = True

    def _on_painted(self) -> None:
        self.labels_changed = True


def _aligned(image: Image, layer: Labels) -> bool:
    return napari_layers.alignment(image, layer) is napari_layers.Alignment.ALIGNED


def _same_shape(image: Image, layer: Labels) -> bool:
    return napari_layers.alignment(image, layer) is not napari_layers.Alignment.OTHER_SHAPE


def _serves(strokes: Strokes, source: Source | None) -> bool:
    return source is not None and strokes.layer is source.labels
