"""Objects of an image in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.events import Event, TilePredicted, pass_on
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.object_maps import quantized
from napari_unetseg.core.object_structures import without_rim_objects
from napari_unetseg.core.settings import ObjectSettings, PredictSettings
from napari_unetseg.data.object_heights import heights_of
from napari_unetseg.data.object_ids import number_objects
from napari_unetseg.inference.predict import predict_events

if TYPE_CHECKING:
    from napari_unetseg.core.job_control import JobControl
    from napari_unetseg.models.model import Model


def predict_objects(
    model: Model,
    image: Any,
    settings: PredictSettings | None = None,
    *,
    axes: str | None = None,
    object_settings: ObjectSettings | None = None,
    rim_objects: bool = True,
    planes: Iterable[tuple[int, ...]] | None = None,
    control: JobControl | None = None,
    on_event: Callable[[Event], object] | None = None,
) -> np.ndarray:
    """Predict the objects of an image: every nucleus its own number.

    An object is found in one plane (2D models) or volume (3D models); in a stack of them numbers
    go on, so that none occurs twice.

    Parameters
    ----------
    model
        A model with structures that consist of objects.
    image, settings, axes, planes, control, on_event
        As in `predict`.
    object_settings
        How objects are told apart; None: as the model says.
    rim_objects
        False leaves out objects that touch the rim of the image in Y or X, as they are cut off.
        The first and last slice of a volume are no rim.

    Returns
    -------
    numpy.ndarray
        Numbers of the objects from 1 on, 0 elsewhere; uint32, shape of the image without its
        channel axis.

    Raises
    ------
    UserError
        No structure of the model consists of objects, or as of `predict`.
    """
    structures = model.classes.objects
    if not structures:
        raise UserError(
            "No structure of this model consists of objects; say which do when it is trained "
            "(--objects), or use predict for its mask."
        )
    stack = image if isinstance(image, Stack) else Stack.from_array(image, axes)
    how = object_settings or model.object_settings
    with_maps = model.net.object_maps and how is not None
    settings = (settings or PredictSettings()).model_copy(update={"object_maps": with_maps})
    mask = np.zeros(stack.grid_shape, np.uint8)
    maps = np.zeros((2, *stack.grid_shape), np.uint8) if with_maps else None
    for event in predict_events(model, stack, settings, planes=planes, control=control):
        if isinstance(event, TilePredicted):
            mask[event.index] = event.mask
            if maps is not None and event.maps is not None:
                maps[(slice(None), *event.index)] = quantized(event.maps)
        pass_on(event, on_event)
    spacing = stack.spatial_spacing(model.dims)
    heights = heights_of(how, structures, spacing, maps=with_maps, mask=mask)
    out = np.zeros(stack.grid_shape, np.uint32)
    last = 0
    for plane in stack.planes(model.dims):
        here: tuple[Any, ...] = (slice(None), *plane)
        found = number_objects(mask[plane], None if maps is None else maps[here], heights)
        if not rim_objects:
            found = _in_a_row(without_rim_objects(found))
        out[plane] = np.where(found, found + last, 0)
        last += int(found.max(initial=0))
    return out


def _in_a_row(ids: np.ndarray) -> np.ndarray:
    """The same objects with numbers from 1 on."""
    present = np.unique(ids)
    return np.searchsorted(present[present > 0], ids) + (ids > 0)
