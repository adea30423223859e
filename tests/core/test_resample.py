"""Images in voxels of another size: where they lie, piece by piece, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from skimage.transform import resize

from napari_unetseg.core import resample
from napari_unetseg.core.image_stack import Normalization, Stack
from napari_unetseg.core.resample import Resampling, read_scaled

Region = tuple[slice, ...]
PLAIN = Normalization((0.0,), (1.0,), (0.5,))
CASES: list[tuple[tuple[int, ...], tuple[float, ...]]] = [
    ((40, 60), (2.0, 2.0)),
    ((41, 37), (4.0, 3.0)),
    ((50, 33), (1.37, 0.62)),
    ((19, 23), (0.25, 1.0)),
    ((1, 30), (1.6, 0.125)),
    ((7, 40, 36), (0.5, 3.1, 3.1)),
    ((12, 1, 20), (2.4, 8.0, 0.8)),
]


def noise(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype(np.float32)


def whole(shape: tuple[int, ...]) -> Region:
    return tuple(slice(0, n) for n in shape)


def part(array: np.ndarray) -> Callable[[Region], np.ndarray]:
    return lambda region: array[(slice(None), *region)]


@pytest.mark.parametrize(("shape", "factors"), [((40, 60), (2, 2)), ((12, 40, 36), (1, 4, 3))])
def test_down_sampling_is_that_of_scikit_image(
    shape: tuple[int, ...], factors: tuple[float, ...]
) -> None:
    image = noise((1, *shape))
    one = Resampling(shape, factors)
    found = one.read(part(image), whole(one.resampled))
    wanted = resize(image[0], one.resampled, order=1, mode="edge", anti_aliasing=True)
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 30), (6, 20, 30)])
def test_up_sampling_is_that_of_scikit_image(shape: tuple[int, ...]) -> None:
    image = noise((1, *shape))
    one = Resampling(shape, (0.25,) * len(shape))
    assert one.resampled == tuple(4 * n for n in shape)
    found = one.read(part(image), whole(one.resampled))
    np.testing.assert_allclose(found[0], resize(image[0], one.resampled, 1, "edge"), atol=1e-5)


@pytest.mark.parametrize(("shape", "factors"), CASES)
def test_pieces_are_the_whole_bit_by_bit(
    shape: tuple[int, ...], factors: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    image, one = noise((2, *shape)), Resampling(shape, factors)
    there = one.read(part(image), whole(one.resampled))
    assert there.shape == (2, *one.resampled)
    back = one.bring_back(there, whole(one.resampled), whole(shape))
    assert back.shape == image.shape
    rng = np.random.default_rng(1)
    for _ in range(20):
        region = _some(rng, one.resampled)
        np.testing.assert_array_equal(one.read(part(image), region), part(there)(region))
        region = _some(rng, shape)
        have = one.resampled_region(region)
        found = one.bring_back(part(there)(have), have, region)
        np.testing.assert_array_equal(found, part(back)(region))
    monkeypatch.setattr(resample, "MOST_VOXELS", 50)
    np.testing.assert_array_equal(one.read(part(image), whole(one.resampled)), there)


def _some(rng: np.random.Generator, shape: tuple[int, ...]) -> Region:
    starts = [int(rng.integers(n)) for n in shape]
    return tuple(
        slice(a, int(rng.integers(a + 1, n + 1))) for a, n in zip(starts, shape, strict=True)
    )


@pytest.mark.parametrize("factors", [(4.0, 4.0), (0.25, 0.25), (1.3, 0.7), (2.5, 1.0), (8.0, 3.3)])
def test_nothing_moves_by_a_tenth_of_a_voxel(factors: tuple[float, ...]) -> None:
    """The middle of a spot, in voxels of the image, whichever voxels it is made of."""
    shape, rng = (160, 200), np.random.default_rng(2)
    one = Resampling(shape, factors)
    for _ in range(5):
        middle = rng.uniform(60, 100, 2)
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        distance = (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2
        spot = np.exp(-distance / (2 * 9.0**2)).astype(np.float32)[None]
        there = one.read(part(spot), whole(one.resampled))
        found = [(m + 0.5) * f - 0.5 for m, f in zip(_middle(there[0]), factors, strict=True)]
        np.testing.assert_allclose(found, middle, atol=0.01)
        back = one.bring_back(there, whole(one.resampled), whole(shape))
        np.testing.assert_allclose(_middle(back[0]), middle, atol=0.01)


def _middle(values: np.ndarray) -> list[float]:
    places = np.meshgrid(*map(np.arange, values.shape), indexing="ij")
    return [float((place * values).sum() / values.sum()) for place in places]


@pytest.mark.parametrize("axes", ["YX", "CYX", "TYXS", "TZCYX", "ZYX"])
def test_the_view_of_a_stack_is_read_as_any_stack(axes: str) -> None:
    sizes = {"T": 2, "Z": 6, "C": 3, "Y": 30, "X": 41, "S": 3}
    image = (noise(tuple(sizes[a] for a in axes)) * 200).astype(np.uint8)
    stack = Stack(image, axes)
    for dims in (2, 3) if "ZYX" in stack.grid_axes else (2,):
        one = Resampling(stack.spatial_shape(dims), (0.5, 3.0, 1.7)[-dims:])
        view = one.view(stack)
        assert view.channels == stack.channels
        assert view.spatial_shape(dims) == one.resampled
        assert view.leading_shape(dims) == stack.leading_shape(dims)
        for plane in stack.planes(dims):
            wanted = read_scaled(stack, plane, whole(one.resampled), _range(stack), one)
            found = view.read(plane, whole(one.resampled))
            np.testing.assert_allclose(_range(stack).apply(found), wanted, atol=1e-6)
            region = tuple(slice(1, n - 1, 3) for n in one.resampled[-2:])
            for index in product(*map(range, view.leading_shape(2)[len(plane) :])):
                piece = view.read((*plane, *index), region)
                np.testing.assert_array_equal(piece, found[(slice(None), *index, *region)])
        assert view.fingerprint()  # a few planes of it, thinned


def _range(stack: Stack) -> Normalization:
    n = stack.n_channels
    return Normalization((0.0,) * n, (1000.0,) * n, (0.5,) * n)


def test_a_broken_pixel_spreads_no_further_than_the_blur() -> None:
    image = np.full((40, 40), 0.2, np.float32)
    image[20, 20], image[3, 3] = np.nan, 1e30
    one = Resampling((40, 40), (4.0, 4.0))
    found = read_scaled(Stack(image, "YX"), (), whole(one.resampled), PLAIN, one)
    assert np.isfinite(found).all()
    assert found.max() < 0.6
    assert (np.abs(found - 0.2) < 1e-6).mean() > 0.7


def test_what_is_read_at_once_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "MOST_VOXELS", 5000)
    reads: list[int] = []

    class Source:
        shape, dtype = (64, 400, 400), np.dtype(np.uint8)

        def __getitem__(self, index: Region) -> np.ndarray:
            shape = [s.stop - s.start for s in index]
            reads.append(int(np.prod(shape)))
            return np.zeros(shape, np.uint8)

    one = Resampling((64, 400, 400), (1.0, 8.0, 8.0))
    stack = Stack(Source(), "ZYX")
    found = read_scaled(stack, (), (slice(0, 64), slice(10, 20), slice(10, 20)), PLAIN, one)
    assert found.shape == (1, 64, 10, 10)
    assert max(reads) <= 5000
