"""Regions that people point at: shapes over images of any scale, the plane on screen, objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Shapes

from napari_unetseg.core.errors import UserError
from napari_unetseg.gui import layers

ROWS, COLUMNS = 20, 30


def opened(planes: tuple[int, ...] = (), **geometry: Any) -> tuple[ViewerModel, Image]:
    viewer = ViewerModel()
    image = viewer.add_layer(Image(np.zeros((*planes, ROWS, COLUMNS)), name="cells", **geometry))
    return viewer, image


def inside(places: list[layers.RegionMask], shape: tuple[int, ...]) -> np.ndarray:
    """All places in one array."""
    out = np.zeros(shape, bool)
    for place in places:
        assert out[place.region].shape == place.where.shape
        out[place.region] |= place.where
    return out


def box(top: float, bottom: float, left: float, right: float) -> np.ndarray:
    return np.array([[top, left], [top, right], [bottom, right], [bottom, left]])


def expected(planes: tuple[int, ...], rows: slice, columns: slice, plane: Any = ()) -> np.ndarray:
    out = np.zeros((*planes, ROWS, COLUMNS), bool)
    out[(*plane, rows, columns)] = True
    return out


RECTANGLE = expected((), slice(3, 7), slice(5, 12))


def test_a_rectangle_encloses_the_pixels_whose_middles_it_holds() -> None:
    viewer, image = opened()
    shapes = Shapes([box(2.5, 6.5, 4.5, 11.5)], shape_type="rectangle")
    places = layers.regions_in_shapes(viewer, image, shapes)
    np.testing.assert_array_equal(inside(places, (ROWS, COLUMNS)), RECTANGLE)
    assert places[0].where.shape == (4, 7), "no wider than what is enclosed"


def test_scale_and_translation_of_both_layers_count() -> None:
    viewer, image = opened(scale=(0.5, 0.25), translate=(10, -4))
    world = box(2.5, 6.5, 4.5, 11.5) * (0.5, 0.25) + (10, -4)
    drawn = (world - (1, 2)) / 2
    shapes = Shapes([drawn], shape_type="polygon", scale=(2, 2), translate=(1, 2))
    places = layers.regions_in_shapes(viewer, image, shapes)
    np.testing.assert_array_equal(inside(places, (ROWS, COLUMNS)), RECTANGLE)


def test_2d_shapes_lie_on_the_plane_on_screen_and_others_on_their_own() -> None:
    viewer, image = opened((4,), scale=(2.0, 1.0, 1.0))
    viewer.dims.set_point(0, 4.0)
    flat = Shapes([box(2.5, 6.5, 4.5, 11.5)], shape_type="rectangle")
    found = inside(layers.regions_in_shapes(viewer, image, flat), (4, ROWS, COLUMNS))
    np.testing.assert_array_equal(found, expected((4,), slice(3, 7), slice(5, 12), (2,)))
    deep = np.column_stack([np.full(4, 3.0), box(2.5, 6.5, 4.5, 11.5)])
    shapes = Shapes([deep], shape_type="rectangle", scale=(2.0, 1.0, 1.0))
    found = inside(layers.regions_in_shapes(viewer, image, shapes), (4, ROWS, COLUMNS))
    np.testing.assert_array_equal(found, expected((4,), slice(3, 7), slice(5, 12), (3,)))


def test_deep_shapes_over_a_flat_image_lie_on_it() -> None:
    viewer, image = opened()
    deep = np.column_stack([np.full(4, 3.0), box(2.5, 6.5, 4.5, 11.5)])
    places = layers.regions_in_shapes(viewer, image, Shapes([deep], shape_type="rectangle"))
    np.testing.assert_array_equal(inside(places, (ROWS, COLUMNS)), RECTANGLE)


def test_an_ellipse_encloses_what_lies_within_its_axes() -> None:
    viewer, image = opened()
    shapes = Shapes([box(3, 15, 6, 24)], shape_type="ellipse")
    found = inside(layers.regions_in_shapes(viewer, image, shapes), (ROWS, COLUMNS))
    rows, columns = np.indices((ROWS, COLUMNS))
    distance = ((rows - 9) / 6) ** 2 + ((columns - 15) / 9) ** 2
    assert found[distance < 0.95].all()
    assert not found[distance > 1.05].any()


def test_a_shape_that_reaches_over_the_edge_is_cut_off() -> None:
    viewer, image = opened()
    shapes = Shapes([box(-8.5, 4.5, 22.5, 99.5)], shape_type="rectangle")
    found = inside(layers.regions_in_shapes(viewer, image, shapes), (ROWS, COLUMNS))
    np.testing.assert_array_equal(found, expected((), slice(0, 5), slice(23, COLUMNS)))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (box(40, 50, 3, 9), "rectangle"),
        (np.array([[2, 2], [9, 9]]), "line"),
        (np.array([[2, 2], [9, 9], [2, 9]]), "path"),
        (box(3.1, 3.4, 5.1, 5.4), "rectangle"),
    ],
    ids=["outside", "line", "path", "between pixels"],
)
def test_what_encloses_nothing_is_refused_with_the_way_out(data: np.ndarray, kind: str) -> None:
    viewer, image = opened()
    with pytest.raises(UserError, match=r"mine encloses no part of cells; draw a rectangle"):
        layers.regions_in_shapes(viewer, image, Shapes([data], shape_type=kind, name="mine"))


def test_a_shape_beyond_the_last_plane_encloses_nothing() -> None:
    viewer, image = opened((4,))
    deep = np.column_stack([np.full(4, 9.0), box(2.5, 6.5, 4.5, 11.5)])
    with pytest.raises(UserError, match="encloses no part"):
        layers.regions_in_shapes(viewer, image, Shapes([deep], shape_type="rectangle"))


def test_the_visible_plane_is_the_one_on_screen() -> None:
    viewer, image = opened((4,))
    viewer.dims.set_point(0, 2)
    place = layers.visible_plane(viewer, image)
    np.testing.assert_array_equal(
        inside([place], (4, ROWS, COLUMNS)),
        expected((4,), slice(0, ROWS), slice(0, COLUMNS), (2,)),
    )


def test_a_volume_or_another_cut_shows_no_plane() -> None:
    viewer, image = opened((4,))
    viewer.dims.order = (1, 0, 2)
    with pytest.raises(UserError, match="along other axes"):
        layers.visible_plane(viewer, image)
    viewer.dims.order = (0, 1, 2)
    viewer.dims.ndisplay = 3
    with pytest.raises(UserError, match="shows a volume"):
        layers.visible_plane(viewer, image)


def test_an_object_is_what_is_connected_under_the_mouse() -> None:
    viewer, _ = opened((4,))
    data = np.zeros((4, ROWS, COLUMNS), np.uint8)
    data[2, 3:7, 5:12] = 1
    data[2, 7, 12] = 1  # touches by a corner
    data[2, 10:12, 5:12] = 1
    data[1, 3:7, 5:12] = 1
    data[2, 5, 6] = 2
    mask = viewer.add_layer(Labels(data, scale=(2.0, 0.5, 0.5), translate=(0, 5, 5)))
    viewer.cursor.position = (4.0, 5 + 0.5 * 4, 5 + 0.5 * 7)
    place = layers.object_at(viewer, mask)
    wanted = np.zeros(data.shape, bool)
    wanted[2, 3:7, 5:12] = wanted[2, 7, 12] = True
    wanted[2, 5, 6] = False
    np.testing.assert_array_equal(inside([place], data.shape), wanted)
    for away in ((4.0, 5.0, 5.0), (4.0, 500.0, 5.0)):
        viewer.cursor.position = away
        with pytest.raises(UserError, match="no object under the mouse"):
            layers.object_at(viewer, mask)
