"""Images: any dtype, any axes, read by slices; the same picture looks the same."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from helpers import Watched, blobs, dice, strokes, tiny
from hypothesis import given
from hypothesis import strategies as st

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image_stack import Normalization, Stack
from napari_unetseg.core.pixel_access import native
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.inference.predict import predict
from napari_unetseg.training.train import train

DTYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", ">u2", ">i4", ">f4"]


def picture(shape: tuple[int, ...] = (60, 50)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, shape)


# -- dtypes and memory layouts -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_real_dtype_is_read_as_the_same_numbers(dtype: str) -> None:
    values = picture()
    read = Stack(values.astype(dtype), "YX").read((), (slice(3, 50), slice(0, 50)))
    assert read.shape == (1, 47, 50)
    assert read.dtype.isnative
    np.testing.assert_array_equal(read[0], values[3:50])
    plain = Normalization.choose([Stack(values, "YX")])
    same = Normalization.choose([Stack(values.astype(dtype), "YX")])
    assert same == plain
    out = same.apply(read)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()


def test_bool_images_are_zeros_and_ones() -> None:
    values = picture() > 50
    read = Stack(values, "YX").read((), (slice(0, 60), slice(0, 50)))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read[0], values)


@pytest.mark.parametrize("dtype", ["c8", "c16", "O", "U3", "M8[s]"])
def test_complex_and_other_types_are_refused(dtype: str) -> None:
    with pytest.raises(UserError, match="convert it to integers or floats"):
        Normalization.choose([Stack(np.zeros((20, 20), dtype), "YX")])


@pytest.mark.parametrize("layout", ["reversed", "fortran", "read-only", "strided", "big-endian"])
def test_memory_layouts(layout: str) -> None:
    values = picture().astype(np.float32)
    view = {
        "reversed": values[::-1, ::-1],
        "fortran": np.asfortranarray(values),
        "read-only": np.frombuffer(values.tobytes(), np.float32).reshape(values.shape),
        "strided": np.repeat(values, 2, 1)[:, ::2],
        "big-endian": values.astype(">f4"),
    }[layout]
    read = Stack(view, "YX").read((), (slice(0, 60), slice(0, 50)))
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read[0], view)
    before = np.array(view)
    out = Normalization((0.0,), (10.0,), (0.0,)).apply(read)
    assert out.flags.writeable
    assert np.abs(out).max() > 0
    np.testing.assert_array_equal(view, before)  # the user's array is as it was


def test_native_keeps_values() -> None:
    np.testing.assert_array_equal(native(np.arange(5, dtype=">i2")), np.arange(5))


# -- broken pixels -------------------------------------------------------------------------------


def test_broken_pixels_take_the_median() -> None:
    values = picture().astype(np.float64)
    normalization = Normalization.choose([Stack(values, "YX")])
    broken = values.copy()
    broken[3, 4], broken[5, 6], broken[7, 8], broken[9, 10] = np.nan, np.inf, -np.inf, 1e300
    again = Normalization.choose([Stack(broken, "YX")])
    assert again.high[0] == pytest.approx(normalization.high[0], abs=1.0)
    out = again.apply(broken[np.newaxis])
    assert np.isfinite(out).all()
    middle = again.apply(np.full((1, 1, 1), again.fill[0]))[0, 0, 0]
    for place in [(3, 4), (5, 6), (7, 8), (9, 10)]:
        assert out[0][place] == middle


def test_an_image_without_any_finite_pixel_is_refused() -> None:
    with pytest.raises(UserError, match="no finite pixel"):
        Normalization.choose([Stack(np.full((20, 20), np.nan), "YX")])


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_image_becomes_zero(value: int) -> None:
    image = np.full((1, 30, 30), value, np.uint16)
    out = Normalization.choose([Stack(image[0], "YX")]).apply(image)
    assert (out == 0).all()


def test_hot_pixels_do_not_change_the_rest() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(1000, 200, (512, 512)).clip(0).astype(np.uint16)
    hot = values.copy()
    places = rng.integers(0, 512, (2, 50))
    hot[tuple(places)] = 65535
    before = Normalization.choose([Stack(values, "YX")]).apply(values[np.newaxis])
    after = Normalization.choose([Stack(hot, "YX")]).apply(hot[np.newaxis])
    cold = hot == values
    assert np.abs(after[0][cold] - before[0][cold]).max() < 0.01
    assert after.max() <= 3.0


def test_each_channel_has_its_own_range() -> None:
    image = np.stack([picture(), 1000 + 50 * picture()]).astype(np.uint16)
    normalization = Normalization.choose([Stack(image, "CYX")])
    out = normalization.apply(image)
    np.testing.assert_allclose(out[0], out[1], atol=0.02)


# -- axes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["CYX", "YCX", "YXC"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_channels_may_be_anywhere(axes: str, channels: int) -> None:
    image = picture((channels, 20, 30))
    stack = Stack(np.moveaxis(image, 0, axes.index("C")), axes)
    assert stack.n_channels == channels
    assert stack.grid_axes == "YX"
    assert stack.grid_shape == (20, 30)
    assert len(stack.channels) == channels
    read = stack.read((), (slice(2, 9), slice(5, 30)))
    np.testing.assert_array_equal(read, image[:, 2:9, 5:30])


@pytest.mark.parametrize(("samples", "channels"), [(1, 1), (2, 1), (3, 3), (4, 3)])
@pytest.mark.parametrize("axes", ["SYX", "YXS"])
def test_alpha_is_no_channel(axes: str, samples: int, channels: int) -> None:
    image = picture((samples, 20, 30))
    stack = Stack(np.moveaxis(image, 0, axes.index("S")), axes)
    assert stack.n_channels == channels
    np.testing.assert_array_equal(stack.read((), stack.whole(2)), image[:channels])


LETTERS = "PTZ"


@given(
    leading=st.lists(st.sampled_from(LETTERS), max_size=3, unique=True),
    place=st.none() | st.integers(0, 5),
    index_type=st.sampled_from([int, np.int64]),
)
def test_any_leading_axes_and_channel_place(
    leading: list[str], place: int | None, index_type: type
) -> None:
    """Whatever the order of axes, a plane is what NumPy's own indexing says."""
    leading.sort(key="PTZ".index)
    grid = [*leading, "Y", "X"]
    axes = grid.copy()
    if place is not None:
        axes.insert(min(place, len(axes)), "C")
    size = {"P": 2, "T": 3, "Z": 4, "Y": 5, "X": 6, "C": 2}
    data = np.arange(np.prod([size[a] for a in axes])).reshape([size[a] for a in axes])
    stack = Stack(data, "".join(axes), spacing=tuple(float(size[a]) for a in axes))
    assert stack.grid_axes == "".join(grid)
    assert stack.grid_spacing == tuple(float(size[a]) for a in grid)
    moved = data[np.newaxis] if place is None else np.moveaxis(data, axes.index("C"), 0)
    planes = list(stack.planes(2))
    assert len(planes) == np.prod([size[a] for a in leading], dtype=int)
    for plane in planes:
        index = tuple(index_type(i) for i in plane)
        read = stack.read(index, (slice(1, 4), slice(0, 6)))
        np.testing.assert_array_equal(read, moved[(slice(None), *plane, slice(1, 4))])
    if leading and leading[-1] == "Z":
        volume = stack.read((0,) * (len(leading) - 1), stack.whole(3))
        np.testing.assert_array_equal(volume, moved[(slice(None), *(0,) * (len(leading) - 1))])
    else:
        with pytest.raises(UserError, match="no Z axis"):
            stack.check_dims(3)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((20, 30), "YX"),
        ((5, 20, 30), "ZYX"),
        ((20, 30, 3), "YXS"),
        ((20, 30, 4), "YXS"),
        ((5, 8, 3), "ZYX"),
        ((2, 5, 20, 30), "TZYX"),
        ((2, 2, 5, 20, 30), "PTZYX"),
    ],
)
def test_guessed_axes(shape: tuple[int, ...], axes: str) -> None:
    assert Stack.from_array(np.zeros(shape, np.uint8)).axes == axes


@pytest.mark.parametrize(
    ("shape", "axes", "sentence"),
    [
        ((20, 30), "ZYX", "name each axis"),
        ((20, 30, 3), "YXX", "name each axis"),
        ((20, 30), "XY", "must end in YX"),
        ((4, 20, 30, 3), "CYXS", "at most one of C"),
        ((0, 30), "YX", "empty"),
        ((30,), "X", "must end in YX"),
    ],
)
def test_axes_that_cannot_be_are_refused(shape: tuple[int, ...], axes: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Stack(np.zeros(shape, np.uint8), axes)


def test_spacing_and_units_have_an_entry_for_each_axis() -> None:
    stack = Stack(np.zeros((2, 9, 9)), "CYX", (1.0, 0.5, 0.25), ("pixel", "um", "um"))
    assert stack.grid_spacing == (0.5, 0.25)
    assert stack.grid_units == ("um", "um")
    with pytest.raises(UserError, match="need 3 entries"):
        Stack(np.zeros((2, 9, 9)), "CYX", (0.5, 0.25))


# -- lazy arrays ---------------------------------------------------------------------------------


def lazy(kind: str, array: np.ndarray) -> Any:
    if kind == "dask":
        return da.from_array(array, chunks=(1, *array.shape[1:]))
    if kind == "zarr":
        stored = zarr.create_array(
            zarr.storage.MemoryStore(),
            shape=array.shape,
            dtype=array.dtype,
            chunks=(1, *array.shape[1:]),
        )
        stored[:] = array
        return stored
    return Watched(array, most=array[0].size)


@pytest.mark.parametrize("kind", ["dask", "zarr", "watched"])
def test_lazy_arrays_are_read_a_plane_at_a_time(kind: str) -> None:
    array = picture((20, 40, 30)).astype(np.uint16)
    stack, plain = Stack(lazy(kind, array), "ZYX"), Stack(array, "ZYX")
    assert Normalization.choose([stack]) == Normalization.choose([plain])
    assert stack.fingerprint() == plain.fingerprint()
    np.testing.assert_array_equal(stack.read((7,), stack.whole(2)), array[7][np.newaxis])


def test_large_planes_are_thinned_for_the_percentiles() -> None:
    watched = Watched(np.zeros((3000, 5000), np.uint8), most=4 * 512**2)
    Normalization.choose([Stack(watched, "YX")])
    Stack(watched, "YX").fingerprint()


def test_long_stacks_are_probed_here_and_there() -> None:
    watched = Watched(np.zeros((500, 32, 32), np.uint8))
    Normalization.choose([Stack(watched, "TYX")])
    assert len(watched.reads) <= 8


def test_fingerprint_follows_the_pixels_not_the_name() -> None:
    image = picture().astype(np.uint8)
    one = Stack(image, "YX", name="a")
    assert one.renamed("b").fingerprint() == one.fingerprint()
    assert Stack(image.copy(), "YX", spacing=(2.0, 2.0)).fingerprint() == one.fingerprint()
    assert Stack(image + 1, "YX").fingerprint() != one.fingerprint()
    assert Stack(image[:-1], "YX").fingerprint() != one.fingerprint()


# -- the same picture in other bit depths --------------------------------------------------------


def in_depth(image: np.ndarray, depth: str) -> np.ndarray:
    eight = (image.clip(0, 1) * 255).round()
    return {
        "uint8": eight.astype(np.uint8),
        "uint16": (eight * 257).astype(np.uint16),
        "float": (eight / 255).astype(np.float32),
    }[depth]


def test_the_same_picture_in_any_bit_depth_gives_the_same_mask() -> None:
    image, truth = blobs((96, 96), 10, seed=1)
    pairs = [AnnotatedImage(Stack(in_depth(image, "uint8"), "YX"), strokes(truth), "strokes")]
    model = train(pairs, tiny(steps=80, learning_rate=2e-2))
    fresh, fresh_truth = blobs((96, 96), 10, seed=5)
    masks = {d: predict(model, in_depth(fresh, d)) for d in ("uint8", "uint16", "float")}
    assert dice(fresh_truth > 0, masks["uint8"] > 0) > 0.85
    for depth in ("uint16", "float"):
        assert dice(masks["uint8"] > 0, masks[depth] > 0) >= 0.98


def test_a_darker_plane_of_the_same_depth_keeps_the_training_range() -> None:
    normalization = Normalization((0.0,), (200.0,), (50.0,))
    dim = Stack((picture() * 0.8).astype(np.uint8), "YX")
    found, own = normalization.for_stack(dim)
    assert not own
    assert found is normalization


def test_images_of_different_brightness_are_scaled_each_on_its_own() -> None:
    rng = np.random.default_rng(0)
    first = Stack(rng.normal(100, 10, (64, 64)), "YX", name="a")
    alike = Stack(rng.normal(101, 10, (64, 64)), "YX", name="b")
    bright = Stack(rng.normal(300, 30, (64, 64)), "YX", name="c")
    assert not Normalization.choose([first]).per_image
    assert not Normalization.choose([first, alike]).per_image
    assert Normalization.choose([first, alike], "image").per_image
    assert not Normalization.choose([first, bright], "training").per_image
    chosen = Normalization.choose([first, bright])
    assert chosen.per_image
    for stack in (first, bright):
        own, by_itself = chosen.for_stack(stack)
        scaled = own.apply(stack.read((), stack.whole(2)))
        assert not by_itself
        assert np.percentile(scaled, 1) == pytest.approx(0, abs=1e-3)
        assert np.percentile(scaled, 99.8) == pytest.approx(1, abs=1e-3)
