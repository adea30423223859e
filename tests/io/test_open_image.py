"""Images and labels come from files as they are: pixels, axes, pixel sizes, or one sentence."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.open_image import open_labels, open_stack
from napari_unetseg.io.readers import lazy_array

RNG = np.random.default_rng(0)
TZCYX = RNG.integers(0, 2**16, (5, 6, 2, 32, 40), dtype=np.uint16)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
OME_SIZES = {
    "PhysicalSizeX": 0.25,
    "PhysicalSizeXUnit": "µm",
    "PhysicalSizeY": 250.0,
    "PhysicalSizeYUnit": "nm",
    "PhysicalSizeZ": 1.5,
    "TimeIncrement": 2.0,
    "TimeIncrementUnit": "min",
}


def tiff(path: Path, array: Any, **options: Any) -> Path:
    tifffile.imwrite(path, array, **options)
    return path


def refusal(path: Path) -> str:
    """Open and read a whole file, and return the sentence of the refusal."""
    with pytest.raises(UserError) as caught:
        np.asarray(open_stack(path).data)
    return str(caught.value)


# -- axes, sizes, names ----------------------------------------------------------------------------


def test_ome_tiff_gives_axes_sizes_units_and_channel_names(tmp_path: Path) -> None:
    metadata = {"axes": "TZCYX", "Channel": {"Name": ["DAPI", "GFP"]}, **OME_SIZES}
    stack = open_stack(tiff(tmp_path / "cells.ome.tif", TZCYX, metadata=metadata))
    assert stack.name == "cells"
    assert stack.axes == "TZCYX"
    assert stack.spacing == (2.0, 1.5, 1.0, 250.0, 0.25)
    assert stack.units == ("min", "um", "pixel", "nm", "um")
    assert stack.channels == ("DAPI", "GFP")
    np.testing.assert_array_equal(np.asarray(stack.data), TZCYX)


def test_imagej_tiff_gives_axes_sizes_and_time(tmp_path: Path) -> None:
    metadata = {"axes": "TZCYX", "spacing": 0.7, "unit": "micron", "finterval": 3.0}
    path = tiff(tmp_path / "a.TIF", TZCYX, imagej=True, resolution=(4, 2), metadata=metadata)
    stack = open_stack(path)
    assert stack.axes == "TZCYX"
    assert stack.spacing == (3.0, 0.7, 1.0, 0.5, 0.25)
    assert stack.units == ("s", "um", "pixel", "um", "um")
    np.testing.assert_array_equal(np.asarray(stack.data), TZCYX)


def test_anisotropy_without_a_unit_is_kept(tmp_path: Path) -> None:
    metadata = {"axes": "ZYX", "spacing": 3.0}
    stack = open_stack(tiff(tmp_path / "a.tif", TZCYX[0, :, 0], imagej=True, metadata=metadata))
    assert stack.spacing == (3.0, 1.0, 1.0)
    assert stack.units == ("pixel", "pixel", "pixel")


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((40_000, 40_000), "CENTIMETER", (0.25, "um")),
        ((50_800, 50_800), "INCH", (0.5, "um")),
        ((300, 300), "INCH", (1.0, "pixel")),  # meant for a printer
        ((72, 72), "INCH", (1.0, "pixel")),
        ((4, 4), "NONE", (1.0, "pixel")),
    ],
)
def test_resolution_tags_of_plain_tiffs(
    tmp_path: Path, resolution: tuple[int, int], unit: str, expected: tuple[float, str]
) -> None:
    path = tiff(tmp_path / "a.tif", GREY, resolution=resolution, resolutionunit=unit)
    stack = open_stack(path)
    assert stack.spacing[-1] == pytest.approx(expected[0])
    assert stack.units[-1] == expected[1]


@pytest.mark.parametrize(("axes", "found"), [(None, "ZYX"), ("TYX", "TYX"), ("cyx", "CYX")])
def test_pages_of_a_plain_tiff_are_a_z_stack_unless_told_otherwise(
    tmp_path: Path, axes: str | None, found: str
) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in TZCYX[0, :, 0]:
            writer.write(page, contiguous=False, metadata=None)
    stack = open_stack(tmp_path / "a.tif", axes=axes)
    assert stack.axes == found
    np.testing.assert_array_equal(np.asarray(stack.data), TZCYX[0, :, 0])


def test_unnamed_axes_get_distinct_letters(tmp_path: Path) -> None:
    assert open_stack(tiff(tmp_path / "a.tif", TZCYX[:, :, 0])).axes == "TZYX"
    assert open_stack(tiff(tmp_path / "b.tif", TZCYX)).axes == "PTZYX"


def test_z_is_moved_beside_y_so_that_volumes_can_be_read(tmp_path: Path) -> None:
    zt = TZCYX[:, :, 0].swapaxes(0, 1)
    stack = open_stack(tiff(tmp_path / "a.ome.tif", zt, metadata={"axes": "ZTYX"}))
    assert stack.axes == "TZYX"
    stack.check_dims(3)
    np.testing.assert_array_equal(np.asarray(stack.data), TZCYX[:, :, 0])
    np.testing.assert_array_equal(stack.data[2, 1, 3:9:2, 5], TZCYX[2, 1, 0, 3:9:2, 5])


def test_axes_of_length_one_are_left_out_but_not_y_and_x(tmp_path: Path) -> None:
    array = TZCYX[:1, :, :1]
    stack = open_stack(tiff(tmp_path / "a.tif", array, metadata={"axes": "TZCYX"}))
    assert stack.axes == "ZYX"
    np.testing.assert_array_equal(np.asarray(stack.data), array[0, :, 0])
    assert open_stack(tiff(tmp_path / "b.tif", GREY[:1, :1])).grid_shape == (1, 1)


def test_spacing_can_be_given(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", TZCYX[0, :, 0])
    stack = open_stack(path, spacing=(2.0, 0.5, 0.5))
    assert (stack.spacing, stack.units) == ((2.0, 0.5, 0.5), ("um", "um", "um"))
    with pytest.raises(UserError, match="two or three positive numbers"):
        open_stack(path, spacing=(0.0, 1.0))


@pytest.mark.parametrize("axes", ["YX", "ZZX", "TZYX"])
def test_axes_that_do_not_fit_are_refused(tmp_path: Path, axes: str) -> None:
    with pytest.raises(UserError, match="name each axis with one letter"):
        open_stack(tiff(tmp_path / "a.tif", TZCYX[0, :, 0]), axes=axes)


# -- pixels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw", "byteorder": ">", "bigtiff": True},
        {"tile": (16, 16), "compression": "zlib"},
        {"rowsperstrip": 3},
    ],
    ids=str,
)
def test_every_layout_gives_the_same_pixels(tmp_path: Path, options: dict[str, Any]) -> None:
    stack = open_stack(tiff(tmp_path / "a.tif", TZCYX[:, :, 0], **options))
    np.testing.assert_array_equal(np.asarray(stack.data), TZCYX[:, :, 0])
    assert stack.data.dtype == np.uint16
    np.testing.assert_array_equal(
        stack.read((1, 2), (slice(5, 20), slice(0, 33)))[0], TZCYX[1, 2, 0, 5:20, :33]
    )


@pytest.mark.parametrize(
    "key",
    [
        0,
        (-1, 2),
        (slice(None), 1),
        (..., 3),
        (0, ..., slice(2, 9, 3)),
        (slice(3, 3),),
        (1, 2, slice(None), slice(30, 2, -4)),
        (np.int64(2), slice(1, None), 4, 5),
    ],
    ids=str,
)
def test_indexing_is_that_of_numpy(tmp_path: Path, key: Any) -> None:
    array = TZCYX[:, :, 0]
    data = open_stack(tiff(tmp_path / "a.tif", array)).data
    np.testing.assert_array_equal(data[key], array[key])


def test_what_is_read_can_be_written_to_without_harm(tmp_path: Path) -> None:
    data = open_stack(tiff(tmp_path / "a.tif", GREY)).data
    data[...][:] = 0
    np.testing.assert_array_equal(data[...], GREY)


def test_a_tiled_plane_too_large_for_memory_is_read_by_its_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy_array, "LARGE_PLANE", 1000)
    monkeypatch.setattr("napari_unetseg.io.readers.tiff.LARGE_PLANE", 1000)
    data = open_stack(tiff(tmp_path / "a.tif", TZCYX[0, :, 0], tile=(16, 16))).data
    lazy_array.clear_cache()
    np.testing.assert_array_equal(data[1:3, 7:20, 9], TZCYX[0, 1:3, 0, 7:20, 9])
    assert not lazy_array._cache._planes


def test_kept_planes_stay_within_their_memory() -> None:
    cache = lazy_array._PlaneCache(1000)
    for key in range(50):
        cache.get(key, lambda: np.zeros(300, np.uint8))
    assert sum(p.nbytes for p in cache._planes.values()) == cache._bytes <= 1000
    assert cache.get(49, lambda: np.ones(1, np.uint8)).sum() == 0
    assert cache.get(0, lambda: np.ones(1, np.uint8)).sum() == 1


def test_a_file_that_is_saved_anew_is_read_anew(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", GREY)
    assert (np.asarray(open_stack(path).data) == GREY).all()
    tiff(path, np.zeros((5, 5), np.uint8))
    assert np.asarray(open_stack(path).data).shape == (5, 5)


def test_many_files_at_once_do_not_run_out_of_handles(tmp_path: Path) -> None:
    import resource

    stacks = [open_stack(tiff(tmp_path / f"{i}.tif", GREY)) for i in range(40)]
    lazy_array.clear_cache()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, used + 24), hard))
    try:
        assert all((np.asarray(s.data) == GREY).all() for s in stacks)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- pictures --------------------------------------------------------------------------------------

PALETTE = Image.fromarray(GREY % 4, mode=None).convert("P")
PALETTE.putdata((GREY % 4).ravel().tolist())
PALETTE.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
RGB16 = RNG.integers(0, 2**16, (20, 30, 3), dtype=np.uint16)


def test_grey_pictures(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.PNG")
    Image.fromarray(GREY).save(tmp_path / "f.bmp")
    Image.fromarray(GREY.astype(np.uint16) * 200).save(tmp_path / "b.png")
    Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(GREY)]).save(tmp_path / "c.png")
    Image.fromarray(GREY > 99).save(tmp_path / "d.png")
    np.save(tmp_path / "e.npy", GREY)
    expected = {
        "a.PNG": GREY,
        "f.bmp": GREY,
        "b.png": GREY * np.uint16(200),
        "c.png": GREY,
        "e.npy": GREY,
    }
    expected["d.png"] = (GREY > 99).astype(np.uint8) * np.uint8(255)
    for name, array in expected.items():
        stack = open_stack(tmp_path / name)
        assert stack.axes == "YX", name
        assert stack.data.dtype == array.dtype, name
        np.testing.assert_array_equal(np.asarray(stack.data), array, name)


def test_colour_pictures_are_read_as_colours(tmp_path: Path) -> None:
    PALETTE.save(tmp_path / "palette.png")
    stack = open_stack(tmp_path / "palette.png")
    assert (stack.axes, stack.n_channels, stack.channels) == ("YXS", 3, ("red", "green", "blue"))
    np.testing.assert_array_equal(np.asarray(stack.data)[..., 0], (GREY % 4 == 1) * 255)
    Image.fromarray(np.dstack([GREY] * 4)).save(tmp_path / "rgba.png")
    assert open_stack(tmp_path / "rgba.png").n_channels == 3
    Image.fromarray(np.dstack([GREY] * 3)).save(tmp_path / "rgb.jpg")
    assert open_stack(tmp_path / "rgb.jpg").grid_shape == (20, 30)


def test_colour_with_sixteen_bits_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(RGB16))
    data = open_stack(tmp_path / "a.png").data
    assert data.dtype == np.uint16
    np.testing.assert_array_equal(np.asarray(data), RGB16)


def test_a_grey_palette_is_grey(tmp_path: Path) -> None:
    picture = Image.fromarray(GREY % 4).convert("P")
    picture.save(tmp_path / "a.png")
    assert open_stack(tmp_path / "a.png").axes == "YX"


# -- labels ----------------------------------------------------------------------------------------


def test_numbers_of_palette_and_one_bit_labels_stay(tmp_path: Path) -> None:
    PALETTE.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(np.asarray(open_labels(tmp_path / "palette.png")), GREY % 4)
    Image.fromarray(GREY > 99).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(np.asarray(open_labels(tmp_path / "bit.png")), GREY > 99)


def test_rgb_labels_need_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([GREY] * 3)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(open_labels(tmp_path / "grey.png"), GREY)
    Image.fromarray(np.dstack([GREY, GREY, GREY // 2])).save(tmp_path / "colour.png")
    with pytest.raises(UserError, match="is a colour picture, not labels"):
        open_labels(tmp_path / "colour.png")


@pytest.mark.parametrize("name", ["rgba.png", "la.png", "rgba.tif", "la.tif", "planar.tif"])
def test_a_mask_in_the_alpha_channel_is_said_to_be_there(tmp_path: Path, name: str) -> None:
    mask, empty = np.where(GREY > 99, 255, 0).astype(np.uint8), np.zeros_like(GREY)
    colours = [empty] * (1 if name.startswith("la") else 3)
    write_samples(tmp_path / name, [*colours, mask])
    with pytest.raises(UserError, match="mask in the alpha channel: its grey is the same"):
        open_labels(tmp_path / name)
    if len(colours) == 3:
        write_samples(tmp_path / name, [GREY, 255 - GREY, GREY, mask])
        with pytest.raises(UserError, match="alpha channel: its colours are a picture"):
            open_labels(tmp_path / name)
    for alpha in (mask, empty + 255):  # beside a mask, alpha says nothing more
        write_samples(tmp_path / name, [*[mask] * len(colours), alpha])
        np.testing.assert_array_equal(open_labels(tmp_path / name), mask)


def write_samples(path: Path, samples: list[np.ndarray]) -> None:
    if path.suffix == ".png":
        Image.fromarray(np.dstack(samples)).save(path)
        return
    array = np.stack(samples) if path.stem == "planar" else np.dstack(samples)
    options: dict[str, Any] = {"photometric": "rgb" if len(samples) > 2 else "minisblack"}
    options["planarconfig"] = "separate" if path.stem == "planar" else "contig"
    tifffile.imwrite(path, array, metadata=None, extrasamples=["unassalpha"], **options)


@pytest.mark.filterwarnings("ignore:.*stored as RGB:DeprecationWarning")
@pytest.mark.parametrize("count", [3, 4])
def test_labels_of_three_or_four_planes_are_a_stack_where_the_image_is_one(
    tmp_path: Path, count: int
) -> None:
    from napari.utils.io import imsave

    labels = np.stack([np.roll(GREY, n) % 3 for n in range(count)])
    imsave(str(tmp_path / "napari.tif"), labels)
    planar: dict[str, Any] = {"photometric": "rgb", "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "plain.tif", labels, metadata=None, **planar)
    tifffile.imwrite(tmp_path / "a.ome.tif", labels, metadata={"axes": "SYX"}, **planar)
    for name in ("napari.tif", "plain.tif", "a.ome.tif"):
        for axes in (None, "ZYX"):
            found = open_labels(tmp_path / name, labels.shape, axes=axes)
            np.testing.assert_array_equal(np.asarray(found), labels)


def test_labels_have_the_axes_that_are_given_of_their_image(tmp_path: Path) -> None:
    labels = (TZCYX[:3, :2, 0] % 5).astype(np.uint8)  # T Z Y X
    turned = tiff(tmp_path / "a.tif", np.swapaxes(labels, 0, 1), photometric="minisblack")
    for axes in ("ZTYX", "ZTCYX"):
        np.testing.assert_array_equal(open_labels(turned, labels.shape, axes=axes), labels)
    plane = tiff(tmp_path / "b.tif", np.dstack([GREY] * 3), photometric="rgb")
    np.testing.assert_array_equal(open_labels(plane, (1, *GREY.shape), axes="ZYX")[0], GREY)


def test_jpeg_labels_are_refused_when_their_numbers_are_blurred(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="JPEG, which blurs the numbers"):
        open_labels(tmp_path / "a.jpg")
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save(tmp_path / "b.jpg")
    assert np.asarray(open_labels(tmp_path / "b.jpg")).min() == 255


def test_labels_take_the_shape_of_the_image_where_only_ones_differ(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREY[np.newaxis, :, np.newaxis])
    labels = open_labels(tmp_path / "a.npy", GREY.shape)
    np.testing.assert_array_equal(labels, GREY)
    assert open_labels(tmp_path / "a.npy", (5, 5)).shape == (1, 20, 1, 30)


# -- bad files -------------------------------------------------------------------------------------


def test_missing_unknown_and_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.tif").endswith("does not exist; check the name.")
    (tmp_path / "a.txt").write_text("x")
    assert "save it as TIFF, PNG or JPEG" in refusal(tmp_path / "a.txt")
    assert refusal(tmp_path) == f"{tmp_path} contains no image; choose a file or another folder."


@pytest.mark.parametrize("content", [b"", b"not an image at all", b"II*\0\x08\0\0\0"])
def test_a_file_that_is_no_image(tmp_path: Path, content: bytes) -> None:
    for name in ("a.tif", "a.ome.tif", "a.png", "a.jpg", "a.npy"):
        (tmp_path / name).write_bytes(content)
        assert "cannot be read" in refusal(tmp_path / name)


def write_plain(path: Path) -> None:
    tifffile.imwrite(path, TZCYX[0, :, 0])


def write_imagej(path: Path) -> None:
    tifffile.imwrite(path, TZCYX[0, :, 0], imagej=True, compression="zlib")


def write_ome(path: Path) -> None:
    tifffile.imwrite(path, TZCYX, ome=True, compression="zlib", metadata={"axes": "TZCYX"})


def write_pages(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        for page in TZCYX[0, :, 0]:
            writer.write(page, contiguous=False, metadata=None)


@pytest.mark.parametrize("write", [write_plain, write_imagej, write_ome, write_pages])
def test_a_tiff_that_is_cut_short_is_refused_when_opened(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "a.tif"
    write(path)
    raw = path.read_bytes()
    for part in (0.01, 0.1, 0.3, 0.6, 0.9, 0.99):
        path.write_bytes(raw[: int(part * len(raw))])
        with pytest.raises(UserError, match="copy or save it again"):
            open_stack(path)


def test_a_picture_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        Image.fromarray(GREY).save(tmp_path / name)
        raw = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(raw[: len(raw) // 2])
        assert "copy or save it again" in refusal(tmp_path / name)


@pytest.mark.parametrize("kind", [TypeError, AttributeError, NameError, ImportError])
def test_a_fault_of_the_program_is_not_taken_for_damage_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    path = tiff(tmp_path / "a.tif", GREY)

    def fails(*_: Any) -> None:
        raise kind("got an unexpected\n argument \x1b'squeeze'")

    monkeypatch.setattr("napari_unetseg.io.readers.tiff.images_of", fails)
    with pytest.raises(UserError, match="if other programs can open it, report") as caught:
        open_stack(path)
    assert f"({kind.__name__}: got an unexpected argument 'squeeze')" in str(caught.value)
    assert isinstance(caught.value.__cause__, kind)


def test_damaged_pixels_are_a_sentence(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", TZCYX[0, :, 0], compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset = file.pages[2].dataoffsets[0]
    raw = bytearray(path.read_bytes())
    raw[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(raw)
    data = open_stack(path).data
    np.testing.assert_array_equal(data[1], TZCYX[0, 1, 0])
    with pytest.raises(UserError, match="damaged"):
        data[2]


def test_a_header_that_promises_too_much_is_refused_before_decoding(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", GREY, compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages[0].tags[tag].overwrite(60_000)
    assert "malicious" in refusal(path)


def test_random_damage_never_gives_anything_but_a_sentence(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    write_imagej(tmp_path / "a.tif")
    write_ome(tmp_path / "b.ome.tif")
    Image.fromarray(GREY).save(tmp_path / "c.png")
    np.save(tmp_path / "d.npy", GREY)
    refused = 0
    for path in sorted(tmp_path.iterdir()):
        raw = path.read_bytes()
        for _ in range(60):
            changed = bytearray(raw)
            for place in rng.integers(0, min(len(raw), 500), 3):
                changed[place] = rng.integers(256)
            path.write_bytes(changed)
            lazy_array.clear_cache()
            try:
                stack = open_stack(path)
                if stack.data.size < 10**7:
                    np.asarray(stack.data)
            except UserError:
                refused += 1
    assert refused > 100


def test_an_animated_png_is_refused_rather_than_cut(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(GREY, n)) for n in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    assert "an animation of 3 pictures" in refusal(tmp_path / "a.png")


def test_pickles_in_npy_files_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a_seg.npy", np.array({"masks": GREY}, object), allow_pickle=True)
    said = refusal(tmp_path / "a_seg.npy")
    assert "cellpose" in said
    assert "save the masks as TIFF or PNG" in said
    (tmp_path / "b.npy").write_bytes(b"no array")
    assert "cannot be read" in refusal(tmp_path / "b.npy")


def _set_tag(path: Path, tag: int, value: int) -> None:
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages.first.tags[tag].overwrite(value)


def test_a_tile_that_no_file_could_hold_is_refused_when_opened(tmp_path: Path) -> None:
    path = tiff(tmp_path / "a.tif", np.zeros((40, 40), np.uint8), tile=(16, 16), compression="zlib")
    _set_tag(path, 323, 2**16)
    _set_tag(path, 322, 2**16)
    assert "malicious" in refusal(path)


def test_a_page_of_a_set_that_says_it_is_larger_is_refused_when_opened(tmp_path: Path) -> None:
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:0"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
        'Type="uint16" SizeX="10" SizeY="12" SizeZ="2" SizeC="1" SizeT="1">'
        '<Channel ID="Channel:0" SamplesPerPixel="1"/>'
        + "".join(
            f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1">'
            f'<UUID FileName="{n}.ome.tif">urn:uuid:{z}</UUID></TiffData>'
            for z, n in enumerate("ab")
        )
        + "</Pixels></Image></OME>"
    )
    for n in "ab":
        tiff(
            tmp_path / f"{n}.ome.tif",
            np.zeros((12, 10), np.uint16),
            description=text,
            metadata=None,
        )
    assert open_stack(tmp_path / "a.ome.tif").data.shape == (2, 12, 10)
    _set_tag(tmp_path / "b.ome.tif", 257, 2**31)
    assert "is damaged" in refusal(tmp_path / "a.ome.tif")


def test_a_png_that_says_it_is_longer_takes_no_memory_for_it(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)
    data = path.read_bytes()
    place = data.index(b"IDAT") - 4
    path.write_bytes(data[:place] + (2**31 - 1).to_bytes(4, "big") + data[place + 4 :])
    tracemalloc.start()
    try:
        with contextlib.suppress(UserError):
            np.asarray(open_stack(path).data)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["c8", "U3", "M8[s]", "u1,u2"])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, kind: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 4), kind))
    assert "convert it" in refusal(tmp_path / "a.npy")


def test_a_tiff_of_complex_numbers_is_refused(tmp_path: Path) -> None:
    assert "convert it" in refusal(tiff(tmp_path / "a.tif", np.zeros((4, 4), np.complex64)))
