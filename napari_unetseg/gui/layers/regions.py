"""Regions chosen by the user: the visible plane, drawn shapes, an object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from skimage.draw import polygon2mask
from skimage.segmentation import flood

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui.layers.layer_axes import grid_shape
from napari_unetseg.gui.layers.layer_grid import plane_on_screen
from napari_unetseg.gui.layers.world_units import to_data, to_world

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Shapes

    from napari_unetseg.annotations.sparse_array import Region

ELLIPSE_CORNERS = 64


@dataclass(frozen=True, slots=True, eq=False)
class RegionMask:
    """A region of an image and the selected voxels in it, boolean of the region's shape."""

    region: Region
    where: np.ndarray


def plane_at(plane: Sequence[int], shape: Sequence[int]) -> RegionMask:
    """A whole YX plane of a grid."""
    region = (*(slice(i, i + 1) for i in plane), *(slice(0, n) for n in shape[-2:]))
    return RegionMask(region, np.ones([s.stop - s.start for s in region], bool))


def visible_plane(viewer: ViewerModel, image: Image) -> RegionMask:
    """The visible YX plane.

    Raises
    ------
    UserError
        The viewer shows a volume, or a slice along other axes.
    """
    if viewer.dims.ndisplay != 2:
        raise UserError("The viewer shows a volume; switch to 2D (Ctrl+Y) to see one plane.")
    if tuple(viewer.dims.displayed) != (viewer.dims.ndim - 2, viewer.dims.ndim - 1):
        raise UserError(
            "The viewer shows a cut along other axes; press its home button, or Ctrl+E, until it "
            "shows Y and X."
        )
    return plane_at(plane_on_screen(viewer, image, 2), grid_shape(image))


def regions_in_shapes(viewer: ViewerModel, image: Image, shapes: Shapes) -> list[RegionMask]:
    """The regions of an image enclosed by the shapes of a layer, each on its own plane.

    Shapes with fewer axes than the image lie on the visible plane. Lines enclose nothing.

    Raises
    ------
    UserError
        Nothing is enclosed.
    """
    shape, here = grid_shape(image), plane_on_screen(viewer, image, 2)
    region_masks: list[RegionMask] = []
    for corners in _outlines(shapes):
        world = [to_world(viewer, shapes, corner) for corner in corners]
        points = np.array([to_data(viewer, image, place)[-len(shape) :] for place in world])
        plane = here
        if shapes.ndim >= image.ndim and len(shape) > 2:
            plane = tuple(int(i) for i in np.round(points[:, :-2].mean(0)))
        if all(0 <= i < n for i, n in zip(plane, shape, strict=False)):
            region_masks += _polygon(points[:, -2:], plane, shape[-2:])
    if not region_masks:
        raise UserError(
            f"{shapes.name} encloses no part of {image.name}; draw a rectangle or a polygon "
            "over it, in a Shapes layer, and select that layer."
        )
    return region_masks


def object_at(viewer: ViewerModel, mask: Labels) -> RegionMask:
    """The connected object of a mask under the mouse, in the visible plane.

    Raises
    ------
    UserError
        The mouse is outside the mask, or on its background.
    """
    found = np.round(to_data(viewer, mask, viewer.cursor.position)).astype(int)
    inside = all(0 <= i < n for i, n in zip(found, mask.data.shape, strict=True))
    plane, seed = tuple(found[:-2].tolist()), tuple(found[-2:].tolist())
    if not inside or not mask.data[(*plane, *seed)]:
        raise UserError("There is no object under the mouse; point at one and press the key.")
    where: np.ndarray = flood(np.asarray(mask.data[plane]), seed)  # type: ignore[no-untyped-call]
    return _cropped(plane, where, (0, 0))


def _outlines(shapes: Shapes) -> Iterator[np.ndarray]:
    """Corners of all shapes that enclose an area, (corners, axes)."""
    for corners, kind in zip(shapes.data, shapes.shape_type, strict=True):
        if kind in ("rectangle", "polygon"):
            yield np.asarray(corners, float)
        elif kind == "ellipse":
            a, b, c, d = np.asarray(corners, float)
            angles = np.linspace(0, 2 * np.pi, ELLIPSE_CORNERS, endpoint=False)[:, None]
            middle = (a + b + c + d) / 4
            yield middle + np.cos(angles) * (b - a) / 2 + np.sin(angles) * (d - a) / 2


def _polygon(
    corners: np.ndarray, plane: Sequence[int], shape: tuple[int, ...]
) -> Iterator[RegionMask]:
    """The interior of a polygon in a plane; nothing if it lies outside the plane."""
    low = np.clip(np.floor(corners.min(0)).astype(int), 0, shape)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 1, 0, shape)
    if (high <= low).any():
        return
    where = polygon2mask(tuple(high - low), corners - low)  # type: ignore[no-untyped-call]
    if where.any():
        yield _cropped(plane, where, low)


def _cropped(plane: Sequence[int], where: np.ndarray, corner: Sequence[int]) -> RegionMask:
    """Crop a mask, bool YX, to its bounding box; its first voxel lies at a corner."""
    along = [np.flatnonzero(where.any(axis)) for axis in (1, 0)]
    cut = tuple(slice(int(on[0]), int(on[-1]) + 1) for on in along)
    starts = (slice(s.start + int(c), s.stop + int(c)) for s, c in zip(cut, corner, strict=True))
    region: Region = (*(slice(i, i + 1) for i in plane), *starts)
    return RegionMask(region, where[cut].reshape([s.stop - s.start for s in region]))
