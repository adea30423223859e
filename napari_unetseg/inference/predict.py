"""Tiled prediction as a generator of events; tiles equal the prediction of the whole image."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.architectures import ARCHITECTURES
from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, Notice, TilePredicted, pass_on
from napari_unetseg.core.image_stack import Normalization, Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import most_probable
from napari_unetseg.core.resample import Resampling, read_scaled
from napari_unetseg.core.settings import PredictSettings
from napari_unetseg.inference import tiling
from napari_unetseg.inference.predictor import (
    EDGE,
    LARGEST_HALO,
    SMALLEST_EDGE,
    Predictor,
    looks_at_image,
    why_blended,
)
from napari_unetseg.models.voxel_sizes import fit_spacing
from napari_unetseg.runtime.devices import use_threads
from napari_unetseg.runtime.glibc_malloc import kept_memory
from napari_unetseg.runtime.memory_errors import is_out_of_memory

if TYPE_CHECKING:
    from napari_unetseg.models.model import Model

Pieces = Iterator[tuple[tiling.Region, np.ndarray]]
Seen = Callable[[], tiling.Region | None]
"""Returns the visible spatial region; None if irrelevant."""
PIECE_BYTES = 2**27
"""Largest size of the probabilities of a piece of a resampled image."""
BLENDED_TILES = 3
"""Edge of such a piece in tiles where they overlap, since border tiles are predicted again."""


def _anywhere() -> None:
    return None


class _Engine(Predictor):
    """A network on a device, with its tiling of a plane or volume."""

    def __init__(
        self,
        model: Model,
        shape: tuple[int, ...],
        settings: PredictSettings,
        resampling: Resampling | None,
    ) -> None:
        super().__init__(model, settings.device, maps=settings.object_maps)
        self.shape = shape if resampling is None else resampling.resampled
        self.resampling = resampling
        self.plan(settings.tile or EDGE[model.dims])

    def plan(self, edge: int) -> None:
        self.edge = edge
        self.exact = tiling.exact_tiles(self.shape, self.network, edge)
        looks_at_tile = looks_at_image(self.model) and len(self.exact) > 1
        far = self.model.dims == 3 or ARCHITECTURES[self.model.net.encoder].wide_receptive_field
        wide = far and tiling.halo_factor(self.exact) > LARGEST_HALO
        self.blended = looks_at_tile or wide
        self.rows = tiling.overlapping_tiles(self.shape, self.network.stride, edge)[1]
        self.pieces = self._pieces()

    def _pieces(self) -> list[tiling.Tile]:
        """Pieces of a resampled image, and the network's output regions that they depend on."""
        if (resampling := self.resampling) is None:
            return []
        step = BLENDED_TILES if self.blended else 1
        most = PIECE_BYTES // (4 * (len(self.model.classes.numbers) + 2 * self.maps))
        edges = resampling.image_edges([step * self.edge] * len(self.shape), most)
        spans = [
            [slice(start, min(start + edge, size)) for start in range(0, size, edge)]
            for size, edge in zip(resampling.shape, edges, strict=True)
        ]
        return [tiling.Tile(resampling.resampled_region(c), c) for c in product(*spans)]

    @property
    def count(self) -> int:
        return len(self.pieces or (self.rows if self.blended else self.exact))

    def walk(self, read: Callable[[tiling.Region], np.ndarray], seen: Seen) -> Pieces:
        """Probabilities of each region of a plane or volume, visible ones first."""
        if self.resampling is not None:
            yield from self._walk_resampled(self.resampling, read, seen)
            return
        if self.blended:
            yield from tiling.blend(
                self.shape, self.network.stride, self.edge, lambda region: self.infer(read(region))
            )
            return
        for tile in tiling.nearest_first(self.exact, seen):
            yield tile.core, self.infer(read(tile.read))[(slice(None), *tile.inner)]

    def _walk_resampled(
        self, resampling: Resampling, read: Callable[[tiling.Region], np.ndarray], seen: Seen
    ) -> Pieces:
        layout = tiling.Tiling.plan(self.shape, self.network, self.edge, blended=self.blended)
        for piece in tiling.nearest_first(self.pieces, seen):
            probs = layout.whole(piece.read, lambda region: self.infer(read(region)))
            yield piece.core, resampling.bring_back(probs, piece.read, piece.core)

    def shrink(self) -> str:
        """Use smaller tiles or the CPU; return a sentence. Raises `UserError` at the smallest."""
        self.release()
        if self.edge > SMALLEST_EDGE:
            self.plan(max(SMALLEST_EDGE, min(self.edge, max(self.shape)) // 2))
            return f"Not enough memory: continuing with tiles of {self.edge} voxels."
        if self.leave_gpu():
            self.plan(EDGE[self.model.dims])
            return "Not enough memory on the GPU: continuing on the CPU."
        raise UserError(
            "There is not enough memory for even the smallest tile; close other programs or use "
            "a smaller network."
        )


def predict_events(
    model: Model,
    stack: Stack,
    settings: PredictSettings | None = None,
    *,
    planes: Iterable[tuple[int, ...]] | None = None,
    control: JobControl | None = None,
    seen: Seen = _anywhere,
    normalization: Normalization | None = None,
) -> Generator[Event, None, None]:
    """Predict a stack tile by tile; memory does not grow with the stack.

    Parameters
    ----------
    model, stack, settings
        The model, the image, and settings.
    planes
        Indices of the leading axes in order; default all.
    control
        Stops the job after a tile.
    seen
        Returns the visible spatial region, whose tiles come first, unless they are blended.
    normalization
        As the model's `Normalization.for_stack` gave it for the image as the network sees it
        (`fit_spacing`), where that is known; None measures it.

    Yields
    ------
    Event
        `Notice` sentences, and a `TilePredicted` for each tile.

    Raises
    ------
    UserError
        The image does not fit the model, or there is too little memory for the smallest tile.
    """
    settings = settings or PredictSettings()
    control = control or JobControl(settings.threads)
    with kept_memory():
        yield from _predict_stack(model, stack, settings, planes, control, seen, normalization)


def _predict_stack(
    model: Model,
    stack: Stack,
    settings: PredictSettings,
    planes: Iterable[tuple[int, ...]] | None,
    control: JobControl,
    seen: Seen,
    normalization: Normalization | None,
) -> Generator[Event, None, None]:
    """All planes or volumes; frees its memory at the end."""
    model.check_image(stack)
    wanted, count = stack.planes(model.dims), math.prod(stack.leading_shape(model.dims))
    if planes is not None:
        chosen = list(planes)
        wanted, count = iter(chosen), len(chosen)
    fitted = fit_spacing(model, stack, match=settings.match_spacing)
    if fitted.notice is not None:
        yield fitted.notice
    if normalization is None:
        normalization, notices = model.normalization.for_stack(fitted.seen)
        yield from notices
    engine = _Engine(model, stack.spatial_shape(model.dims), settings, fitted.resampling)
    if engine.blended:
        yield Notice(why_blended(model))
    for number, plane in enumerate(wanted):
        yield from _predict_plane(
            engine, stack, normalization, plane, control, settings, (number, count), seen
        )
        if control.stopped:
            return


def _predict_plane(
    engine: _Engine,
    stack: Stack,
    normalization: Normalization,
    plane: tuple[int, ...],
    control: JobControl,
    settings: PredictSettings,
    place: tuple[int, int],
    seen: Seen,
) -> Generator[Event, None, None]:
    """One plane or volume, restarted with smaller tiles when memory runs out."""

    def read(region: tiling.Region) -> np.ndarray:
        use_threads(control.threads or settings.threads)
        return read_scaled(stack, plane, region, normalization, engine.resampling)

    number, planes = place
    while True:
        try:
            for done, (region, found) in enumerate(engine.walk(read, seen), 1):
                probs, maps = engine.split(found)
                mask = engine.model.classes.decode(most_probable(probs))
                kept = probs if settings.probabilities else None
                total = planes * engine.count
                step = number * engine.count + done
                yield TilePredicted(plane, region, mask, kept, step, total, maps)
                if control.stopped:
                    return
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        was_blended = engine.blended
        yield Notice(engine.shrink())
        if engine.blended and not was_blended:
            yield Notice(why_blended(engine.model))


def predict(
    model: Model,
    image: Any,
    settings: PredictSettings | None = None,
    *,
    axes: str | None = None,
    planes: Iterable[tuple[int, ...]] | None = None,
    control: JobControl | None = None,
    on_event: Callable[[Event], object] | None = None,
) -> np.ndarray:
    """Predict the mask of an image.

    Parameters
    ----------
    model
        A trained model.
    image
        A `Stack`, or an array whose axes are given by ``axes`` (default ``TZYX`` from the right,
        ``YXS`` for RGB).
    settings, planes, control
        As in `predict_events`; planes that are not asked for stay 0.
    on_event
        Called with every event; without it, `Notice` sentences go to the log as warnings.

    Returns
    -------
    numpy.ndarray
        Structures' numbers, 0 for background; uint8, shape of the image without its channel axis.
    """
    stack = image if isinstance(image, Stack) else Stack.from_array(image, axes)
    mask = np.zeros(stack.grid_shape, np.uint8)
    for event in predict_events(model, stack, settings, planes=planes, control=control):
        if isinstance(event, TilePredicted):
            mask[event.index] = event.mask
        pass_on(event, on_event)
    return mask


def predict_probabilities(
    model: Model,
    image: Any,
    settings: PredictSettings | None = None,
    *,
    axes: str | None = None,
    planes: Iterable[tuple[int, ...]] | None = None,
    control: JobControl | None = None,
    on_event: Callable[[Event], object] | None = None,
) -> np.ndarray:
    """Probability of each class; parameters as in `predict`.

    Returns
    -------
    numpy.ndarray
        (classes, *grid shape) float32, in the order of ``model.classes.names``.
    """
    stack = image if isinstance(image, Stack) else Stack.from_array(image, axes)
    settings = (settings or PredictSettings()).model_copy(update={"probabilities": True})
    out = np.zeros((len(model.classes.numbers), *stack.grid_shape), np.float32)
    for event in predict_events(model, stack, settings, planes=planes, control=control):
        if isinstance(event, TilePredicted):
            out[(slice(None), *event.index)] = event.probabilities
        pass_on(event, on_event)
    return out
