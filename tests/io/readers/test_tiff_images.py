"""Which of the images in a TIFF is opened, what is said of it, and what is left to people."""

from __future__ import annotations

import json
import logging
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_unetseg.core.errors import ChoiceError, UserError
from napari_unetseg.io.open_image import contents_of, open_all, open_levels, open_stack, stem_of
from napari_unetseg.io.readers import lazy_array

GREY: dict[str, Any] = {"photometric": "minisblack"}
PAGE: dict[str, Any] = {"metadata": None, "contiguous": False}


def planes(*shape: int, dtype: str = "uint16") -> np.ndarray:
    """Planes that are filled with their number from 1."""
    count = int(np.prod(shape[:-2]))
    numbers = np.arange(1, count + 1, dtype=dtype)
    return np.broadcast_to(numbers.reshape(*shape[:-2], 1, 1), shape).copy()


def numbers(stack: Any) -> list[int]:
    """The number of each plane of a stack."""
    return [int(n) for n in np.asarray(stack.data[...])[..., 0, 0].ravel()]


def write(path: Path, *parts: tuple[np.ndarray, dict[str, Any]], **how: Any) -> Path:
    with tifffile.TiffWriter(path, **how) as writer:
        for array, options in parts:
            writer.write(array, **options)
    return path


def refusal(path: Path, **how: Any) -> str:
    with pytest.raises(ChoiceError) as caught:
        open_stack(path, **how)
    return str(caught.value)


# -- several images that are one stack -------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "axes", "shape"),
    [
        ([(8, 9)] * 3, "ZYX", (3, 8, 9)),
        ([(5, 8, 9)] * 3, "TZYX", (3, 5, 8, 9)),
        ([(5, 8, 9), (5, 8, 9), (2, 8, 9), (8, 9)], "ZYX", (13, 8, 9)),
    ],
    ids=["frames", "volumes", "blocks"],
)
def test_images_written_one_after_another_are_one_stack(
    tmp_path: Path, shapes: list[tuple[int, ...]], axes: str, shape: tuple[int, ...]
) -> None:
    every = planes(sum(int(np.prod(s[:-2])) for s in shapes), 8, 9)
    parts, first = [], 0
    for part in shapes:
        count = int(np.prod(part[:-2]))
        parts.append((every[first : first + count].reshape(part), GREY))
        first += count
    stack = open_stack(write(tmp_path / "a.tif", *parts))
    assert (stack.axes, stack.data.shape) == (axes, shape)
    assert numbers(stack) == list(range(1, first + 1))
    assert f"holds {len(shapes)} images that are alike" in stack.notes[0]
    np.testing.assert_array_equal(stack.data[..., 2:4, 5], every.reshape(shape)[..., 2:4, 5])
    one = open_stack(tmp_path / "a.tif", series=2)
    np.testing.assert_array_equal(np.asarray(one.data), parts[1][0])


def test_appended_images_are_one_stack(tmp_path: Path) -> None:
    for page in planes(3, 8, 9):
        tifffile.imwrite(tmp_path / "a.tif", page, append=True)
    stack = open_stack(tmp_path / "a.tif", axes="TYX")
    assert (stack.axes, numbers(stack)) == ("TYX", [1, 2, 3])


@pytest.mark.parametrize("count", [2, 5])
def test_pages_that_are_only_compressed_differently_stay_in_their_order(
    tmp_path: Path, count: int
) -> None:
    every = planes(count, 8, 9)
    parts = [(p, {**PAGE, "compression": "zlib" if n % 2 else None}) for n, p in enumerate(every)]
    stack = open_stack(write(tmp_path / "a.tif", *parts))
    assert (stack.axes, numbers(stack), stack.notes) == ("ZYX", [*range(1, count + 1)], ())


@pytest.mark.parametrize("place", [0, 4, 11])
def test_a_page_without_pixels_is_left_out_and_said(tmp_path: Path, place: int) -> None:
    path = write(tmp_path / "a.tif", *((p, GREY | PAGE) for p in planes(12, 8, 9)))
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[place].aspage().tags["ImageWidth"].overwrite(0)
    stack = open_stack(path)
    assert numbers(stack) == [n for n in range(1, 13) if n != place + 1]
    assert stack.notes == ("a.tif has 1 page without pixels, left out.",)
    assert [c.shape for c in contents_of(path)] == [(11, 8, 9)]


def test_positions_of_an_ome_tiff_are_one_stack_where_their_names_differ_in_numbers(
    tmp_path: Path,
) -> None:
    every = planes(3, 8, 9)
    parts = [(p, {"metadata": {"Name": f"Pos{n}"}}) for n, p in enumerate(every)]
    stack = open_stack(write(tmp_path / "a.ome.tif", *parts))
    assert (stack.axes, numbers(stack)) == ("PYX", [1, 2, 3])
    assert "'a.ome.tif/Pos0' opens the first" in stack.notes[0]
    named = [(p, {"metadata": {"Name": n}}) for n, p in zip(["raw", "mask"], every, strict=False)]
    assert "holds 2 images: raw (8 × 9 uint16), mask (8 × 9 uint16); choose one" in refusal(
        write(tmp_path / "b.ome.tif", *named)
    )


def test_images_of_other_pixel_sizes_are_no_stack(tmp_path: Path) -> None:
    parts = [
        (p, {"metadata": {"Name": "Pos", "PhysicalSizeX": n}})
        for n, p in enumerate(planes(2, 8, 9), 1)
    ]
    assert "holds 2 images" in refusal(write(tmp_path / "a.ome.tif", *parts))
    zoomed = [
        (p, {"resolution": (n, n), "resolutionunit": 3})
        for n, p in zip((1e5, 2e5), planes(2, 8, 9), strict=True)
    ]
    assert "holds 2 images" in refusal(write(tmp_path / "b.tif", *zoomed))


def test_planes_beyond_what_the_metadata_say_are_opened_too(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for options in ({"compression": "zlib"}, {}):
        tifffile.imwrite(path, planes(5, 8, 9), imagej=True, metadata={"axes": "ZYX"}, **options)
        raw = path.read_bytes().replace(b"images=5", b"images=3").replace(b"slices=5", b"slices=3")
        path.write_bytes(raw)
        lazy_array.clear_cache()
        stack = open_stack(path)
        assert (stack.axes, numbers(stack)) == ("ZYX", [1, 2, 3, 4, 5])
        assert "2 planes more than its metadata say" in stack.notes[0]


# -- several images that are not -------------------------------------------------------------------


def test_images_of_other_sizes_are_refused_by_their_names(tmp_path: Path) -> None:
    parts = [(planes(8, 9), {}), (planes(3, 8, 11), GREY), (planes(8, 9, dtype="uint8"), {})]
    path = write(tmp_path / "a.tif", *parts)
    assert refusal(path) == (
        f"{path} holds 3 images: Series 1 (8 × 9 uint16), Series 2 (3 × 8 × 11 uint16), Series 3 "
        "(8 × 9 uint8); choose one, such as 'a.tif/Series 1', or give its number, such as "
        "--series 1."
    )
    for series in (2, "2", "Series 2"):
        assert open_stack(path, series=series).data.shape == (3, 8, 11)
        assert open_stack(path / str(series)).data.shape == (3, 8, 11)
    assert open_stack(path / "Series 2", series=1).data.shape == (3, 8, 11)
    assert "holds no image 'x', but 3 images: Series 1" in refusal(path, series="x")
    assert "holds no image '4'" in refusal(path, series=4)
    assert [stack.data.shape for stack, *_ in open_all(path)] == [(8, 9), (3, 8, 11), (8, 9)]


def test_a_name_may_look_like_a_path_or_a_number(tmp_path: Path) -> None:
    names = ["C:/scans/x.lif", "a/b", "3"]
    parts = [(planes(8 + n, 9), {"metadata": {"Name": name}}) for n, name in enumerate(names)]
    path = write(tmp_path / "a.ome.tif", *parts)
    for number, name in enumerate(names):
        assert open_stack(path, series=name).data.shape == (8 + number, 9)
    assert open_stack(path, series=1).data.shape == (8, 9)
    assert stem_of(path / names[0]) == "a_C__scans_x.lif"


def test_a_page_of_another_type_amid_many_is_not_read_as_one_of_them(tmp_path: Path) -> None:
    """tifffile looks at the first pages and the last."""
    for name, odd in (("type", planes(8, 9, dtype="uint8")), ("height", planes(16, 9))):
        pages = [odd if n == 4 else page for n, page in enumerate(planes(10, 8, 9))]
        path = write(tmp_path / f"{name}.tif", *((p, {**PAGE, "rowsperstrip": 99}) for p in pages))
        assert "holds 2 images: Series 1 (9 × 8 × 9 uint16), Series 2" in refusal(path)
        assert numbers(open_stack(path, series=1)) == [1, 2, 3, 4, 6, 7, 8, 9, 10]


def test_a_hyperstack_with_a_page_of_another_type_is_refused(tmp_path: Path) -> None:
    text = ome('SizeZ="3"', "<TiffData/>")
    pages = [planes(8, 9), planes(8, 9, dtype="uint8"), planes(8, 9)]
    parts = [(p, {**PAGE, "description": text if n == 0 else None}) for n, p in enumerate(pages)]
    with pytest.raises(UserError, match="page 2 has another size or type"):
        open_stack(write(tmp_path / "a.tif", *parts))


# -- pyramids and what belongs to an image ---------------------------------------------------------


def write_pyramid(path: Path) -> Path:
    array = np.arange(3 * 32 * 40, dtype=np.uint16).reshape(3, 32, 40)
    said = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
    return write(
        path,
        (array, {"subifds": 1, "metadata": said, **GREY}),
        (array[:, ::2, ::2], {"subfiletype": 1}),
    )


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("pages", "back"), [(1, 0), (2, 0), (150, 5), (150, 149)])
def test_pages_that_follow_each_other_in_a_circle_are_refused(
    tmp_path: Path, pages: int, back: int, big: bool
) -> None:
    """tifffile would read them for ever."""
    path = tmp_path / "circle.tif"
    with tifffile.TiffWriter(path, bigtiff=big) as tiff:
        for _ in range(pages):
            tiff.write(np.zeros((4, 4), np.uint8), metadata=None, contiguous=False)
    with tifffile.TiffFile(path) as file:
        place, target = file.pages[-1].offset, file.pages[back].offset
        tags, form = len(file.pages[-1].tags), file.tiff
    data = bytearray(path.read_bytes())
    end = place + form.tagnosize + tags * form.tagsize
    data[end : end + form.offsetsize] = struct.pack(form.offsetformat, target)
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged, truncated"):
        open_stack(path)


def test_a_pyramid_is_one_image_with_levels(tmp_path: Path) -> None:
    full, half = open_levels(write_pyramid(tmp_path / "a.ome.tif"))
    assert (full.data.shape, half.data.shape) == ((3, 32, 40), (3, 16, 20))
    assert (half.spacing, half.translate) == ((2.0, 1.0, 1.0), (0.0, 0.25, 0.25))
    np.testing.assert_array_equal(half.data[...], np.asarray(full.data)[:, ::2, ::2])
    assert full.notes == ()


def test_pages_that_happen_to_be_a_half_are_said_to_be_read_as_resolutions(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", (planes(32, 40), PAGE), (planes(16, 20), PAGE))
    levels = open_levels(path)
    assert [level.data.shape for level in levels] == [(32, 40), (16, 20)]
    assert "read as resolutions of an image: 32 × 40, 16 × 20" in levels[0].notes[0]


def write_slide(path: Path) -> Path:
    """As Aperio does: the image in tiles, a thumbnail, a smaller level, label and macro."""
    image = np.arange(64 * 80 * 3, dtype=np.uint8).reshape(64, 80, 3)
    tiled: dict[str, Any] = {"tile": (16, 16), "metadata": None}
    text = "Aperio Image Library v1\r\n64x80 |AppMag = 20|MPP = 0.4990"
    plain: dict[str, Any] = {"metadata": None}
    return write(
        path,
        (image, {**tiled, "description": text}),
        (image[::8, ::8], plain),
        (image[::2, ::2], tiled),
        (image[:20], {**plain, "subfiletype": 1}),
        (image[:30], {**plain, "subfiletype": 9}),
    )


def test_of_a_slide_the_image_is_opened_and_what_belongs_to_it_is_named(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.svs")
    full, half = open_levels(path)
    assert (full.axes, full.data.shape, half.data.shape) == ("YXS", (64, 80, 3), (32, 40, 3))
    assert full.spacing == (0.499, 0.499, 1.0)
    assert "also holds Thumbnail, Label, Macro" in full.notes[0]
    assert open_stack(path / "Macro").data.shape == (30, 80, 3)
    assert [c.name for c in contents_of(path)] == ["Baseline", "Thumbnail", "Label", "Macro"]
    assert len(open_all(path)) == 4


@pytest.mark.parametrize("said", ["flag", "name"])
def test_a_thumbnail_before_the_image_is_not_taken_for_it(tmp_path: Path, said: str) -> None:
    how = {"subfiletype": 1} if said == "flag" else {"metadata": {"Name": "thumbnail image"}}
    path = tmp_path / ("a.tif" if said == "flag" else "a.ome.tif")
    stack = open_stack(write(path, (planes(5, 6), how), (planes(3, 32, 40), GREY)))
    assert stack.data.shape == (3, 32, 40)
    assert "also holds" in stack.notes[0]


def test_thumbnails_of_an_lsm_are_left_out(tmp_path: Path) -> None:
    fields = [(n, f if isinstance(f, str) else "u4") for n, f in tifffile.TIFF.CZ_LSMINFO]
    info = np.zeros((), fields)
    info["MagicNumber"], info["StructureSize"] = 67127628, info.dtype.itemsize
    for axis, size in {"X": 9, "Y": 8, "Z": 4, "Channels": 1, "Time": 1}.items():
        info[f"Dimension{axis}"] = size
    info["VoxelSizeX"] = info["VoxelSizeY"] = 2e-7
    info["VoxelSizeZ"] = 1e-6
    tag = [(34412, 1, info.nbytes, info.tobytes(), True)]
    parts = []
    for n, page in enumerate(planes(4, 8, 9)):
        parts.append((page, {**PAGE, "extratags": tag if n == 0 else None}))
        parts.append((planes(2, 3, dtype="uint8"), {**PAGE, "subfiletype": 1}))
    stack = open_stack(write(tmp_path / "a.lsm", *parts))
    assert (stack.name, stack.axes, numbers(stack)) == ("a", "ZYX", [1, 2, 3, 4])
    assert stack.spacing == pytest.approx((1.0, 0.2, 0.2))
    assert stack.units == ("um",) * 3


def test_the_planes_of_a_metamorph_stack_have_one_header(tmp_path: Path) -> None:
    times = tuple(n for t in range(4) for n in (0, 1, 2459000, 1000 * t, 2459000, 0))
    path = tmp_path / "a.stk"
    tags = [(33628, 4, 2, (3, 0), True), (33629, 5, 12, times, True)]
    how: dict[str, Any] = {"metadata": None, "truncate": True, "extratags": tags}
    tifffile.imwrite(path, planes(4, 8, 9), photometric="minisblack", **how)
    raw = bytearray(path.read_bytes())
    for code, kind, written, said in ((33628, 4, 2, 1), (33629, 5, 12, 4)):
        at = raw.index(struct.pack("<HHI", code, kind, written))
        raw[at + 4 : at + 8] = struct.pack("<I", said)
    path.write_bytes(raw)
    stack = open_stack(path)
    assert (stack.axes, numbers(stack)) == ("TYX", [1, 2, 3, 4])


# -- planes that are missing -----------------------------------------------------------------------


def ome(sizes: str, data: str) -> str:
    """OME-XML of planes of 8 × 9 pixels."""
    known = dict.fromkeys("TCZ", "1") | dict(re.findall(r'Size(.)="(\d+)"', sizes))
    counts = " ".join(f'Size{a}="{n}"' for a, n in known.items())
    channels = "".join(f'<Channel ID="Channel:{n}"/>' for n in range(int(known["C"])))
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="9" '
        f'SizeY="8" {counts}>{channels}{data}</Pixels></Image></OME>'
    )


def write_pages(path: Path, text: str, count: int, **more: Any) -> Path:
    parts = [
        (page, {**PAGE, **more, "description": text if n == 0 else None})
        for n, page in enumerate(planes(count, 8, 9))
    ]
    return write(path, *parts)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_an_interrupted_acquisition_is_refused_by_the_numbers_of_its_planes(
    tmp_path: Path, compression: str | None
) -> None:
    text = ome('SizeT="10"', '<TiffData IFD="0" PlaneCount="10"/>')
    path = write_pages(tmp_path / "a.ome.tif", text, 3, compression=compression)
    assert "lacks 7 of 10 planes (T 3–9, counted from 0)" in refusal(path)
    assert contents_of(path)[0].missing == "7 of 10 planes (T 3–9, counted from 0)"
    dropped = open_stack(path, missing_planes="drop")
    assert (dropped.axes, numbers(dropped)) == ("TYX", [1, 2, 3])
    assert "lacks 7 of 10 planes" in dropped.notes[0]
    filled = open_stack(path, missing_planes="fill")
    assert numbers(filled) == [1, 2, 3, *[0] * 7]
    assert "which are black" in filled.notes[0]


def test_what_is_dropped_is_as_little_as_possible(tmp_path: Path) -> None:
    data = "".join(
        f'<TiffData FirstT="{n // 4}" FirstZ="{n % 4}" IFD="{n}" PlaneCount="1"/>'
        for n in range(20)
    )
    path = write_pages(tmp_path / "a.ome.tif", ome('SizeT="5" SizeZ="4"', data), 10)
    assert "lacks 10 of 20 planes (T 3–4, T 2 Z 2, T 2 Z 3, counted" in refusal(path)
    stack = open_stack(path, missing_planes="drop")
    assert (stack.axes, stack.data.shape) == ("TZYX", (2, 4, 8, 9))
    assert numbers(stack) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_hole_keeps_the_order_of_what_is_left(tmp_path: Path) -> None:
    there = [0, 1, 3, 5]
    data = "".join(
        f'<TiffData FirstT="{t}" IFD="{n}" PlaneCount="1"/>' for n, t in enumerate(there)
    )
    path = write_pages(tmp_path / "a.ome.tif", ome('SizeT="6"', data), 4)
    assert "(T 2, 4, counted from 0)" in refusal(path)
    assert numbers(open_stack(path, missing_planes="drop")) == [1, 2, 3, 4]
    assert numbers(open_stack(path, missing_planes="fill")) == [1, 2, 0, 3, 0, 4]
    assert open_stack(path, missing_planes="drop").data[2, 0, 0] == 3


def test_an_imagej_stack_that_lacks_planes_is_refused_and_can_be_filled(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    said = {"axes": "ZYX"}
    tifffile.imwrite(path, planes(4, 8, 9), imagej=True, compression="zlib", metadata=said)
    raw = path.read_bytes().replace(b"images=4", b"images=9").replace(b"slices=4", b"slices=9")
    path.write_bytes(raw)
    assert "(Z 4–8, counted from 0)" in refusal(path)
    assert numbers(open_stack(path, missing_planes="fill")) == [1, 2, 3, 4, *[0] * 5]


def test_a_stack_that_says_more_than_it_has_is_refused_though_the_log_is_silenced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, planes(4, 8, 9), imagej=True, metadata={"axes": "ZYX"})
    raw = path.read_bytes().replace(b"images=4", b"images=9").replace(b"slices=4", b"slices=9")
    path.write_bytes(raw)
    logger = logging.getLogger("tifffile")
    monkeypatch.setattr(logger, "level", logging.CRITICAL)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="truncated or damaged"):
        open_stack(path)
    assert logger.level == logging.CRITICAL


def test_an_image_without_any_plane_is_named(tmp_path: Path) -> None:
    other = (
        '<Image ID="Image:1" Name="second"><Pixels ID="Pixels:1" DimensionOrder="XYZCT" '
        'Type="uint16" SizeX="9" SizeY="8" SizeZ="2" SizeC="1" SizeT="1"><Channel ID="Channel:9"/>'
        "</Pixels></Image></OME>"
    )
    text = ome('SizeZ="3"', "<TiffData/>").replace("</OME>", other)
    stack = open_stack(write_pages(tmp_path / "a.ome.tif", text, 3))
    assert numbers(stack) == [1, 2, 3]
    assert stack.notes == ("The metadata of a.ome.tif list second, but it has no planes of these.",)


# -- Micro-Manager ---------------------------------------------------------------------------------


def write_mm(path: Path, frames: int, there: list[int], channels: int = 1) -> Path:
    """As Micro-Manager does: an index of the planes before them, each with a header of 13 tags."""
    summary = {"MicroManagerVersion": "2.0", "Frames": frames, "Slices": 1, "Channels": channels}
    text = json.dumps({**summary, "Positions": 1, "Prefix": "a"}).encode()
    start = 40 + len(text) + len(text) % 2
    size = 162 + 8 * 9 * 2
    index = b"".join(
        struct.pack("<5I", n % channels, 0, n // channels, 0, start + i * size)
        for i, n in enumerate(there)
    )
    last = start + size * len(there)
    head = struct.pack("<2sHI", b"II", 42, start)
    head += struct.pack("<8I", 54773648, last, 0, 0, 0, 0, 2355492, len(text))
    body = bytearray(head + text.ljust(start - 40, b" "))
    for i, page in enumerate(planes(len(there), 8, 9)):
        at = start + i * size
        tags = {
            254: (4, 0), 256: (4, 9), 257: (4, 8), 258: (3, 16), 259: (3, 1), 262: (3, 1),
            273: (4, at + 162), 277: (3, 1), 278: (4, 8), 279: (4, 144), 339: (3, 1),
            51123: (2, 40), 51124: (4, 0),
        }  # fmt: skip
        body += struct.pack("<H", len(tags))
        for code, (kind, value) in tags.items():
            body += struct.pack("<HHII", code, kind, len(text) if kind == 2 else 1, value)
        body += struct.pack("<I", at + size if i + 1 < len(there) else 0) + page.tobytes()
    path.write_bytes(bytes(body) + struct.pack("<2I", 3453623, len(there)) + index)
    return path


def test_a_micro_manager_stack_says_what_was_planned_and_what_is_missing(tmp_path: Path) -> None:
    whole = open_stack(write_mm(tmp_path / "a_MMStack_Pos0.ome.tif", 3, [0, 1, 2]))
    assert (whole.axes, numbers(whole), whole.notes) == ("TYX", [1, 2, 3], ())
    ended = open_stack(write_mm(tmp_path / "b.tif", 9, [0, 1, 2]))
    assert (ended.axes, numbers(ended)) == ("TYX", [1, 2, 3])
    assert "was planned with T 9" in ended.notes[0]
    holes = write_mm(tmp_path / "c.tif", 3, [0, 1, 2, 3, 4], channels=2)
    assert "lacks 1 of 6 planes (T 2 C 1, counted from 0)" in refusal(holes)


# -- colours that are none, and other layouts ------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*stored as RGB:DeprecationWarning")
@pytest.mark.parametrize(
    ("shape", "axes", "colours"),
    [((3, 8, 9), "ZYX", "SYX"), ((4, 8, 9), "ZYX", "SYX"), ((5, 3, 8, 9), "TZYX", "ZSYX")],
)
def test_three_or_four_planes_that_were_only_tagged_as_colour_are_a_stack(
    tmp_path: Path, shape: tuple[int, ...], axes: str, colours: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", planes(*shape))
    stack = open_stack(tmp_path / "a.tif")
    assert (stack.axes, numbers(stack)) == (axes, list(range(1, int(np.prod(shape[:-2])) + 1)))
    assert f"--axes {colours} reads colours" in stack.notes[0]
    assert open_stack(tmp_path / "a.tif", axes=axes).notes == ()
    assert open_stack(tmp_path / "a.tif", axes=colours).channels == ("red", "green", "blue")


@pytest.mark.parametrize("metadata", [None, {"axes": "SYX"}])
def test_colours_that_somebody_meant_stay_colours(tmp_path: Path, metadata: Any) -> None:
    options: dict[str, Any] = {"photometric": "rgb", "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "a.tif", planes(3, 8, 9), metadata=metadata, **options)
    assert open_stack(tmp_path / "a.tif").channels == ("red", "green", "blue")


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("layout", ["contig", "separate"])
def test_samples_that_are_no_colours_are_channels(tmp_path: Path, count: int, layout: str) -> None:
    channels = planes(count, 8, 9)
    array = channels if layout == "separate" else np.moveaxis(channels, 0, -1)
    more: dict[str, Any] = {"extrasamples": [0] * (count - 1), "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", array, planarconfig=layout, **GREY, **more)
    stack = open_stack(tmp_path / "a.tif")
    assert (stack.n_channels, stack.grid_shape) == (count, (8, 9))
    np.testing.assert_array_equal(stack.read((), stack.whole(2)), channels)


def test_a_picture_whose_white_is_0_is_said_to_be_one(tmp_path: Path) -> None:
    options: dict[str, Any] = {"photometric": "miniswhite", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", planes(8, 9) > 0, **options)
    assert "stores white as 0" in open_stack(tmp_path / "a.tif").notes[0]
    tifffile.imwrite(tmp_path / "b.tif", planes(8, 9) > 0)  # what tifffile makes of booleans
    assert open_stack(tmp_path / "b.tif").notes == ()
