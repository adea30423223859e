"""OME-Zarr and plain Zarr come as they are, lazily; what is broken or hostile is one sentence."""

from __future__ import annotations

import copyreg
import json
import multiprocessing
import os
import pickle  # noqa: TID251 - what a dask worker is sent, and what must not run
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, ShardingCodec

from napari_unetseg.cli import main
from napari_unetseg.core.errors import UserError
from napari_unetseg.io.folder_pairs import find_pairs
from napari_unetseg.io.open_image import open_labels, open_levels, open_stack, stem_of
from napari_unetseg.io.readers import lazy_array
from napari_unetseg.io.units import parse_spacing

if TYPE_CHECKING:
    from napari_unetseg.io.readers.zarr_array import ZarrArray

RNG = np.random.default_rng(0)
ZYX = RNG.integers(0, 2**16, (7, 45, 52), dtype=np.uint16)
CZYX = RNG.integers(0, 2**16, (2, 7, 45, 52), dtype=np.uint16)
AXES = {
    "t": {"name": "t", "type": "time", "unit": "second"},
    "c": {"name": "c", "type": "channel"},
    **{a: {"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"},
}


def scales(axes: str, paths: list[str], **more: Any) -> dict[str, Any]:
    """A multiscale entry: voxels of 2 × 0.5 × 0.5 µm, each level with twice the size in Y and X."""
    datasets = []
    for level, path in enumerate(paths):
        size = {"t": 3.0, "c": 1.0, "z": 2.0, "y": 0.5 * 2**level, "x": 0.5 * 2**level}
        shift = {"z": 10.0, "y": 0.25 * (2**level - 1), "x": 0.25 * (2**level - 1)}
        transforms = [
            {"type": "scale", "scale": [size[a] for a in axes]},
            {"type": "translation", "translation": [shift.get(a, 0.0) for a in axes]},
        ]
        datasets.append({"path": path, "coordinateTransformations": transforms})
    return {"axes": [AXES[a] for a in axes], "datasets": datasets, **more}


def write_image(
    path: Path,
    array: np.ndarray,
    axes: str,
    version: int = 3,
    levels: int = 2,
    more: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """An OME-Zarr image: 0.5 as Zarr 3, 0.4 as Zarr 2."""
    options.setdefault("chunks", (*(1 for _ in array.shape[:-2]), 16, 20))
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    for level in range(levels):
        step = (..., slice(None, None, 2**level), slice(None, None, 2**level))
        group.create_array(str(level), data=np.ascontiguousarray(array[step]), **options)
    ome = {"multiscales": [scales(axes, [str(n) for n in range(levels)])], **(more or {})}
    group.attrs.update({"ome": {"version": "0.5", **ome}} if version == 3 else ome)
    return path


def plain(path: Path, array: np.ndarray, version: int = 3, **options: Any) -> Path:
    zarr.create_array(str(path), data=array, zarr_format=version, **options)
    return path


def change(path: Path, **values: Any) -> None:
    """Change the metadata of an array or a group."""
    file = next(path / n for n in ("zarr.json", ".zarray", ".zgroup") if (path / n).exists())
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def change_ome(path: Path, **values: Any) -> None:
    content = json.loads((path / "zarr.json").read_text())
    content["attributes"]["ome"].update(values)
    (path / "zarr.json").write_text(json.dumps(content))


def refusal(path: Path) -> str:
    """Open and read all of a store; return the sentence of the refusal."""
    lazy_array.clear_cache()
    with pytest.raises(UserError) as caught:
        np.asarray(open_stack(path).data)
    assert str(caught.value).count("\n") == 0
    return str(caught.value)


# -- what is read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_an_ome_zarr_gives_axes_sizes_place_channels_and_colours(
    tmp_path: Path, version: int
) -> None:
    channels = [{"label": "DAPI", "color": "0000FF"}, {"label": "GFP", "color": "00ff00"}]
    omero = {"omero": {"channels": channels}}
    stack = open_stack(write_image(tmp_path / "a.ome.zarr", CZYX, "czyx", version, more=omero))
    assert (stack.name, stack.axes) == ("a", "CZYX")
    assert stack.spacing == (1.0, 2.0, 0.5, 0.5)
    assert stack.units == ("pixel", "um", "um", "um")
    assert (stack.translate, stack.grid_translate) == ((0.0, 10.0, 0.0, 0.0), (10.0, 0.0, 0.0))
    assert stack.channels == ("DAPI", "GFP")
    assert stack.colors == ("#0000ff", "#00ff00")
    np.testing.assert_array_equal(np.asarray(stack.data), CZYX)


def test_every_level_has_its_own_spacing_and_place(tmp_path: Path) -> None:
    levels = open_levels(write_image(tmp_path / "a.zarr", ZYX, "zyx", levels=3))
    assert [s.data.shape for s in levels] == [(7, 45, 52), (7, 23, 26), (7, 12, 13)]
    assert [s.spacing[-1] for s in levels] == [0.5, 1.0, 2.0]
    assert [s.translate[-1] for s in levels] == [0.0, 0.25, 0.75]
    np.testing.assert_array_equal(levels[2].data[...], ZYX[:, ::4, ::4])


def test_transforms_of_the_image_come_after_those_of_its_levels(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", ZYX, "zyx", levels=1)
    after = [
        {"type": "scale", "scale": [10.0, 1.0, 1.0]},
        {"type": "translation", "translation": [1.0, 2.0, 3.0]},
    ]
    entry = scales("zyx", ["0"], coordinateTransformations=after)
    change_ome(path, multiscales=[entry])
    stack = open_stack(path)
    assert stack.spacing == (20.0, 0.5, 0.5)
    assert stack.translate == (101.0, 2.0, 3.0)


def test_older_images_name_axes_as_letters_or_not_at_all(tmp_path: Path) -> None:
    array = CZYX[np.newaxis]
    for named, name in ((list("tczyx"), "a.zarr"), (None, "b.zarr")):
        group = zarr.open_group(str(tmp_path / name), mode="w", zarr_format=2)
        group.create_array("0", data=array)
        entry = {"datasets": [{"path": "0"}], "axes": named}
        group.attrs["multiscales"] = [{k: v for k, v in entry.items() if v is not None}]
        stack = open_stack(tmp_path / name)
        assert (stack.axes, stack.spacing) == ("CZYX", (1.0,) * 4)
        np.testing.assert_array_equal(stack.data[...], CZYX)


def test_axes_in_any_order_become_those_of_a_volume(tmp_path: Path) -> None:
    stack = open_stack(write_image(tmp_path / "a.zarr", CZYX.transpose(1, 0, 3, 2), "zcxy"))
    assert (stack.axes, stack.data.shape) == ("CZYX", CZYX.shape)
    stack.check_dims(3)
    np.testing.assert_array_equal(stack.data[...], CZYX)
    np.testing.assert_array_equal(stack.data[1, 2:5, 3:40:2, 7], CZYX[1, 2:5, 3:40:2, 7])


def test_axes_and_spacing_can_be_given(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", ZYX, "zyx")
    stack = open_stack(path, axes="TYX", spacing="200,100nm")
    assert (stack.axes, stack.spacing) == ("TYX", (2.0, 200.0, 100.0))
    assert stack.units[1:] == ("nm", "nm")
    with pytest.raises(UserError, match="name each axis with one letter"):
        open_stack(path, axes="YX")


LAYOUTS: dict[str, dict[str, Any]] = {
    "3": {},
    "3 raw": {"compressors": None},
    "3 gzip": {"compressors": zarr.codecs.GzipCodec()},
    "3 blosc": {"compressors": zarr.codecs.BloscCodec()},
    "3 big-endian": {"serializer": zarr.codecs.BytesCodec(endian="big")},
    "3 transposed": {"filters": zarr.codecs.TransposeCodec(order=(2, 0, 1))},
    "3 shards": {"chunks": (1, 16, 20), "shards": (4, 32, 40)},
    "3 shard of one chunk": {"chunks": (4, 16, 20), "shards": (4, 16, 20)},
    "3 v2 keys": {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "."}}},
    "2": {},
    "2 raw": {"compressors": None},
    "2 F": {"order": "F"},
    "2 big-endian": {},
    "2 delta": {"filters": [numcodecs.Delta(dtype="<u2")]},
    **{f"2 {n}": {"compressors": c} for n, c in (
        ("blosc", numcodecs.Blosc("lz4")), ("bz2", numcodecs.BZ2()), ("gzip", numcodecs.GZip()),
        ("lz4", numcodecs.LZ4()), ("lzma", numcodecs.LZMA()), ("zlib", numcodecs.Zlib()),
        ("zstd", numcodecs.Zstd()),
    )},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_pixels(tmp_path: Path, layout: str) -> None:
    options = {"chunks": (3, 16, 20), **LAYOUTS[layout]}
    array = ZYX.astype(">u2") if layout == "2 big-endian" else ZYX
    data = open_stack(plain(tmp_path / "a.zarr", array, int(layout[0]), **options)).data
    np.testing.assert_array_equal(np.asarray(data), ZYX)
    assert np.asarray(data).dtype == data.dtype == np.dtype("uint16")
    for key in [
        0,
        (-1, 2),
        (..., 3),
        (0, ..., slice(2, 39, 17)),
        (slice(3, 3),),
        (slice(None, None, -2), slice(30, 2, -4)),
        (slice(5, None, -1), 7, slice(None, None, -1)),
        (np.int64(2), slice(1, None), 4),
    ]:
        np.testing.assert_array_equal(data[key], ZYX[key], str(key))


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "uint64", "float16", "float64"])
@pytest.mark.parametrize("version", [2, 3])
def test_every_type_of_number(tmp_path: Path, version: int, dtype: str) -> None:
    array = (ZYX % 2).astype(dtype)
    data = open_stack(plain(tmp_path / "a.zarr", array, version)).data
    assert data.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(data[...], array)


def test_plain_arrays_take_the_names_of_their_dimensions(tmp_path: Path) -> None:
    named = plain(tmp_path / "a.zarr", ZYX, dimension_names=["time", "y", "x"])
    assert open_stack(named).axes == "TYX"
    xarray = plain(tmp_path / "b.zarr", ZYX, 2, attributes={"_ARRAY_DIMENSIONS": ["c", "y", "x"]})
    assert open_stack(xarray).axes == "CYX"
    assert open_stack(plain(tmp_path / "c.zarr", ZYX)).axes == "ZYX"


def test_opening_reads_metadata_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store whose chunks are all damaged opens; only reading says so."""
    path = plain(tmp_path / "a.zarr", ZYX, chunks=(1, 45, 52))
    for file in (path / "c").rglob("*"):
        if file.is_file():
            file.write_bytes(b"none")
    stack = open_stack(path)
    assert stack.data.shape == ZYX.shape
    with pytest.raises(UserError, match="damaged"):
        stack.data[0]


def test_a_chunk_is_decoded_once_for_all_its_planes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imagecodecs

    from napari_unetseg.io.readers import zarr_codecs

    calls: list[int] = []

    def counted(*args: Any, **options: Any) -> bytes:
        calls.append(1)
        return bytes(imagecodecs.zstd_decode(*args, **options))

    monkeypatch.setitem(zarr_codecs._DECODERS, "zstd", counted)
    data = open_stack(plain(tmp_path / "a.zarr", ZYX, chunks=(7, 45, 26))).data
    lazy_array.clear_cache()
    for z in range(7):
        np.testing.assert_array_equal(data[z], ZYX[z])
    assert len(calls) == 2


def test_a_chunk_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.zarr", ZYX, chunks=(7, 45, 52))
    data = open_stack(path).data
    np.testing.assert_array_equal(data[...], ZYX)
    zarr.open_array(str(path), mode="r+")[...] = ZYX[:, ::-1]
    np.testing.assert_array_equal(data[...], ZYX[:, ::-1])


# -- threads and processes -------------------------------------------------------------------------


def total(data: ZarrArray) -> int:
    return int(data[...].sum())


def test_an_array_is_read_by_many_threads_at_once(tmp_path: Path) -> None:
    data = open_stack(plain(tmp_path / "a.zarr", ZYX, chunks=(1, 16, 20))).data
    with ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(lambda i: int(data[i % 7].sum()) - int(ZYX[i % 7].sum()), range(64)))
    assert not any(sums)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_an_array_travels_to_other_processes(tmp_path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("POSIX alone")
    data = open_stack(plain(tmp_path / "a.zarr", ZYX)).data
    assert total(data) == ZYX.sum()  # Zarr's threads run before the fork
    assert len(pickle.dumps(data)) < 2000
    lazy_array.clear_cache()
    if method == "fork":
        child = os.fork()
        if child == 0:
            os._exit(0 if total(data) == ZYX.sum() else 1)
        assert os.waitpid(child, 0)[1] == 0
        return
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(total, (data,)) == ZYX.sum()


def test_metadata_that_change_under_an_open_array_are_said(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.zarr", ZYX)
    sent = pickle.dumps(open_stack(path).data)
    from napari_unetseg.io.readers import zarr_array

    zarr_array._opened.cache_clear()
    change(path, shape=[7, 45, 51])
    with pytest.raises(UserError, match="was changed since it was opened"):
        pickle.loads(sent)[...]


# -- plates, labels, groups ------------------------------------------------------------------------


def write_plate(path: Path, version: int) -> Path:
    plate = zarr.open_group(str(path), mode="w", zarr_format=version)
    wells = [{"path": "A/1"}, {"path": "B/2"}]
    ome = {"plate": {"wells": wells, "rows": [{"name": "A"}], "columns": [{"name": "1"}]}}
    plate.attrs.update({"ome": ome} if version == 3 else ome)
    for well in wells:
        group = plate.create_group(well["path"])
        ome = {"well": {"images": [{"path": "0"}, {"path": "1"}]}}
        group.attrs.update({"ome": ome} if version == 3 else ome)
        for field in "01":
            write_image(path / well["path"] / field, ZYX + int(field), "zyx", version)
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_a_plate_says_which_wells_there_are(tmp_path: Path, version: int) -> None:
    path = write_plate(tmp_path / "plate.zarr", version)
    sentence = refusal(path)
    assert "is a plate with 2 wells: A/1, B/2" in sentence
    assert "such as plate.zarr/A/1/0" in sentence
    assert "holds 2 fields: 0, 1; choose one" in refusal(path / "A" / "1")
    stack = open_stack(path / "B" / "2" / "1")
    assert stack.name == "plate_B_2_1"
    np.testing.assert_array_equal(stack.data[...], ZYX + 1)


def test_a_group_of_one_image_is_that_image(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    write_image(tmp_path / "a.zarr" / "0", ZYX, "zyx", 2)
    np.testing.assert_array_equal(open_stack(tmp_path / "a.zarr").data[...], ZYX)
    write_image(tmp_path / "a.zarr" / "1", ZYX, "zyx", 2)
    assert "holds 2 images: 0, 1; choose one, such as a.zarr/0." in refusal(tmp_path / "a.zarr")


def test_a_group_of_arrays_is_listed(tmp_path: Path) -> None:
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    assert "contains no image" in refusal(tmp_path / "a.zarr")
    plain(tmp_path / "a.zarr" / "raw", ZYX)
    np.testing.assert_array_equal(open_stack(tmp_path / "a.zarr").data[...], ZYX)
    plain(tmp_path / "a.zarr" / "seg", ZYX)
    assert "2 arrays or groups: raw, seg; choose one" in refusal(tmp_path / "a.zarr")
    assert open_stack(tmp_path / "a.zarr" / "raw").name == "a_raw"


def write_labels(path: Path, names: list[str], version: int = 3) -> None:
    group = zarr.open_group(str(path / "labels"), mode="w", zarr_format=version)
    group.attrs.update({"ome": {"labels": names}} if version == 3 else {"labels": names})
    for number, name in enumerate(names):
        write_image(
            path / "labels" / name,
            (ZYX > 9000).astype(np.uint8) + np.uint8(number),
            "zyx",
            version,
            more={"image-label": {}},
        )


@pytest.mark.parametrize("version", [2, 3])
def test_labels_of_an_image(tmp_path: Path, version: int) -> None:
    path = write_image(tmp_path / "a.zarr", ZYX[np.newaxis], "czyx", version)
    write_labels(path, ["cells"], version)
    cells = (ZYX > 9000).astype(np.uint8)
    for named in (path, path / "labels", path / "labels" / "cells"):
        labels = open_labels(named, ZYX.shape)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels[...], cells)
    write_labels(path, ["cells", "nuclei"], version)
    with pytest.raises(UserError, match="holds 2 groups of labels: labels/cells, labels/nuclei"):
        open_labels(path)
    np.testing.assert_array_equal(open_labels(path / "labels" / "nuclei")[...], cells + 1)
    np.testing.assert_array_equal(open_stack(path).data[...], ZYX)


def test_empty_labels_are_labels_but_an_empty_image_is_none(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(9, 9), dtype="u1", chunks=(4, 4))
    assert not open_labels(tmp_path / "a.zarr")[...].any()
    assert "all of its chunks are missing" in refusal(tmp_path / "a.zarr")


def test_names() -> None:
    assert stem_of("b/a.zarr") == "a"
    assert stem_of("b/a.ome.zarr") == "a"
    assert stem_of("b/p.zarr/A/1/0") == "p_A_1_0"


# -- missing chunks --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_chunks_that_are_missing_have_the_fill_value_and_are_counted(
    tmp_path: Path, version: int
) -> None:
    path = plain(tmp_path / "a.zarr", ZYX, version, chunks=(1, 45, 52), fill_value=7)
    data = open_stack(path).data
    assert data.missing().count == 0
    (path / ("c/2/0/0" if version == 3 else "2.0.0")).unlink()
    np.testing.assert_array_equal(data[2], np.full((45, 52), 7))
    np.testing.assert_array_equal(data[3], ZYX[3])
    missing = data.missing()
    assert (missing.count, missing.total) == (1, 7)
    assert missing.first == ("c/2/0/0" if version == 3 else "2.0.0")


# -- broken and hostile ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_an_array_of_one_huge_chunk_is_refused_when_opened(tmp_path: Path, version: int) -> None:
    shape = (4_000_000, 4_000_000)
    zarr.create_array(
        str(tmp_path / "a.zarr"), shape=shape, dtype="u1", chunks=shape, zarr_format=version
    )
    assert "in pieces of 14,901 GB" in refusal(tmp_path / "a.zarr")


def test_a_large_chunk_in_hardly_any_bytes_is_refused_before_decoding(tmp_path: Path) -> None:
    shape = (2**15, 2**15)
    path = tmp_path / "a.zarr"
    zarr.create_array(str(path), shape=shape, dtype="u1", chunks=shape)
    (path / "c" / "0").mkdir(parents=True)
    (path / "c" / "0" / "0").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    assert "malicious" in refusal(path)


@pytest.mark.parametrize("name", ["zstd", "gzip", "zlib", "bz2", "lzma", "blosc", "lz4"])
def test_a_bomb_is_decoded_no_further_than_a_chunk(tmp_path: Path, name: str) -> None:
    """32 MB of zeros in a chunk of 4 kB: refused, and never in memory."""
    import tracemalloc

    path = tmp_path / "a.zarr"
    codec = numcodecs.get_codec({"id": name})
    zarr.create_array(
        str(path), shape=(64, 64), dtype="u1", chunks=(64, 64), compressors=codec, zarr_format=2
    )
    (path / "0.0").write_bytes(codec.encode(bytes(2**25)))
    tracemalloc.start()
    try:
        assert "damaged" in refusal(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**22


class Bomb:
    """An object whose pickle makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_pickles_are_refused_by_their_name(tmp_path: Path, place: str) -> None:
    assert copyreg  # the pickle below is a real one
    path = plain(tmp_path / "a.zarr", ZYX[0], 2, chunks=(45, 52), compressors=None)
    (path / "0.0").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    codec = {"id": "pickle", "protocol": 5}
    change(path, **{place: [codec] if place == "filters" else codec})
    assert "stored with 'pickle', which is not supported" in refusal(path)
    change(path, dtype="|O")
    assert "holds values of type '|O'" in refusal(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "codecs",
    [
        [{"name": "bytes"}, {"name": "unknown"}],
        [{"name": "vlen-utf8"}],
        [{"name": "numcodecs.pickle", "configuration": {}}],
        ["bytes", 7],
        [{"name": "sharding_indexed", "configuration": {"chunk_shape": [1, 45, 52]}}],
        [{"name": "bytes"}, {"name": "bytes"}],
        [],
        [{"name": "transpose", "configuration": {"order": [0, 0, 9]}}, {"name": "bytes"}],
    ],
    ids=str,
)
def test_codecs_that_are_not_known_are_refused(tmp_path: Path, codecs: list[Any]) -> None:
    path = plain(tmp_path / "a.zarr", ZYX)
    change(path, codecs=codecs)
    assert refusal(path)


HARMFUL: dict[str, dict[str, Any]] = {
    "no shape": {"shape": None},
    "negative shape": {"shape": [-7, 45, 52]},
    "shape of text": {"shape": "745"},
    "shape of floats": {"shape": [7.0, 45, 52]},
    "shape of booleans": {"shape": [True, 45, 52]},
    "empty": {"shape": [0, 45, 52]},
    "fewer axes": {"shape": [45, 52]},
    "huge number": {"shape": [10**30, 45, 52]},
    "no chunks": {"chunk_grid": {}},
    "chunks of 0": {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 1, 1]}}},
    "other grid": {"chunk_grid": {"name": "rectangular", "configuration": {}}},
    "other keys": {"chunk_key_encoding": {"name": "../../x"}},
    "separator": {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "x"}}},
    "text": {"data_type": "string"},
    "structure": {"data_type": {"name": "struct", "configuration": {}}},
    "fill object": {"fill_value": {}},
    "transformers": {"storage_transformers": [{"name": "x"}]},
    "unknown field": {"surprise": {"must_understand": True}},
    "attributes": {"attributes": []},
    "version": {"zarr_format": 4},
    "node": {"node_type": "file"},
}  # fmt: skip


@pytest.mark.parametrize("harm", HARMFUL)
def test_wrong_metadata_are_a_sentence(tmp_path: Path, harm: str) -> None:
    path = plain(tmp_path / "a.zarr", ZYX)
    change(path, **HARMFUL[harm])
    assert str(path) in refusal(path) or "is empty" in refusal(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b"[]", "no JSON object"),
        (b'{"zarr_format": 3}', "neither an array nor a group"),
        (b" " * (9 * 2**20), "at most 8 MB"),
    ],
    ids=["empty", "binary", "deep", "list", "nothing", "huge"],
)
def test_metadata_that_are_no_json(tmp_path: Path, content: bytes, said: str) -> None:
    path = plain(tmp_path / "a.zarr", ZYX)
    (path / "zarr.json").write_bytes(content)
    assert said in refusal(path)


@pytest.mark.parametrize(
    "name", ["../b.zarr", "/etc", "..", "", "C:\\x", None, 7, "a/../../b.zarr"]
)
def test_paths_in_metadata_stay_in_the_store(tmp_path: Path, name: Any) -> None:
    plain(tmp_path / "b.zarr", ZYX)
    path = write_image(tmp_path / "a.zarr", ZYX, "zyx", levels=1)
    change_ome(path, multiscales=[{**scales("zyx", ["0"]), "datasets": [{"path": name}]}])
    assert "which is outside it" in refusal(path)


def test_links_out_of_the_store_are_refused(tmp_path: Path) -> None:
    plain(tmp_path / "b.zarr", ZYX, chunks=(7, 45, 52))
    path = write_image(tmp_path / "a.zarr", ZYX, "zyx", levels=1)
    (path / "1").symlink_to(tmp_path / "b.zarr")
    change_ome(path, multiscales=[scales("zyx", ["1"])])
    assert "is a link to a place outside" in refusal(path)
    other = plain(tmp_path / "c.zarr", ZYX, chunks=(7, 45, 52))
    (other / "c/0/0/0").unlink()
    (other / "c/0/0/0").symlink_to(tmp_path / "b.zarr/c/0/0/0")
    assert "is a link to a place outside" in refusal(other)
    (other / "zarr.json").unlink()
    (other / "zarr.json").symlink_to(tmp_path / "b.zarr" / "zarr.json")
    assert "is a link to a place outside" in refusal(other)


def test_links_within_the_store_and_to_a_whole_one_are_followed(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", ZYX, "zyx", levels=1)
    (path / "1").symlink_to("0")
    change_ome(path, multiscales=[scales("zyx", ["1"])])
    np.testing.assert_array_equal(open_stack(path).data[...], ZYX)
    (tmp_path / "link.zarr").symlink_to(path)
    np.testing.assert_array_equal(open_stack(tmp_path / "link.zarr").data[...], ZYX)


def test_circles_end_in_a_sentence(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", ZYX, "zyx", levels=1)
    change_ome(path, multiscales=[scales("zyx", ["."])])
    assert refusal(path)
    (path / "x").symlink_to("x")
    change_ome(path, multiscales=[scales("zyx", ["x"])])
    assert refusal(path)
    group = tmp_path / "b.zarr"
    zarr.open_group(str(group), mode="w")
    (group / "again").symlink_to(".")
    assert "is not an image itself" in refusal(group)


def test_a_pipe_in_place_of_a_chunk_does_not_hang(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.zarr", ZYX, chunks=(7, 45, 52))
    (path / "c/0/0/0").unlink()
    os.mkfifo(path / "c/0/0/0")
    assert "malicious" in refusal(path)
    (path / "zarr.json").unlink()
    os.mkfifo(path / "zarr.json")
    assert "metadata are files" in refusal(path)
    os.mkfifo(tmp_path / "a.tif")
    assert "a device or a pipe" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize("options", [{}, {"chunks": (1, 16, 20), "shards": (4, 32, 40)}], ids=str)
def test_chunks_that_are_cut_short_are_a_sentence(tmp_path: Path, options: dict[str, Any]) -> None:
    path = plain(tmp_path / "a.zarr", ZYX, **options)
    file = next(f for f in sorted((path / "c").rglob("*")) if f.is_file())
    raw = file.read_bytes()
    for part in (0, 0.1, 0.5, 0.99):
        file.write_bytes(raw[: int(part * len(raw))])
        assert "copy or save it again" in refusal(path)


@pytest.mark.parametrize(("offset", "size"), [(0, 2**62), (2**40, 100), (1, 2**40)])
def test_a_shard_that_declares_chunks_beyond_its_end_is_a_sentence(
    tmp_path: Path, offset: int, size: int
) -> None:
    """As much memory would be taken as its index says."""
    path = tmp_path / "a.zarr"
    shard = ShardingCodec(
        chunk_shape=(1, 16, 20), codecs=[BytesCodec()], index_codecs=[BytesCodec()]
    )
    data = zarr.create_array(
        str(path), shape=ZYX.shape, dtype=ZYX.dtype, chunks=(4, 32, 40), serializer=shard,
        compressors=None,
    )  # fmt: skip
    data[...] = ZYX
    for file in sorted(f for f in (path / "c").rglob("*") if f.is_file()):
        raw = bytearray(file.read_bytes())
        chunks = 4 * 2 * 2
        raw[-16 * chunks :] = struct.pack("<QQ", offset, size) * chunks
        file.write_bytes(raw)
    assert "copy or save it again" in refusal(path)


BROKEN_OME: dict[str, Any] = {
    "no datasets": [{"axes": ["y", "x"]}],
    "datasets of text": [{"axes": list("zyx"), "datasets": ["0"]}],
    "no level": [{"axes": list("zyx"), "datasets": []}],
    "axes of numbers": [{"axes": [1, 2, 3], "datasets": [{"path": "0"}]}],
    "other axes": [{"axes": list("zy"), "datasets": [{"path": "0"}]}],
    "no Y": [{"axes": list("abc"), "datasets": [{"path": "0"}]}],
    "text": ["0"],
    "scale of text": [{**scales("zyx", ["0"]), "coordinateTransformations": [{"type": "scale"}]}],
    "affine": [
        {**scales("zyx", ["0"]), "coordinateTransformations": [{"type": "affine", "affine": []}]}
    ],
}


@pytest.mark.parametrize("harm", BROKEN_OME)
def test_broken_ome_metadata_are_a_sentence(tmp_path: Path, harm: str) -> None:
    path = write_image(tmp_path / "a.zarr", ZYX, "zyx")
    change_ome(path, multiscales=BROKEN_OME[harm])
    assert str(path) in refusal(path)


def test_a_scale_of_nothing_counts_as_unknown(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", ZYX, "zyx", levels=1)
    entry = scales("zyx", ["0"])
    entry["datasets"][0]["coordinateTransformations"] = [{"type": "scale", "scale": [0, 0.5, 0.5]}]
    change_ome(path, multiscales=[entry])
    stack = open_stack(path)
    assert (stack.spacing, stack.units[0]) == ((1.0, 0.5, 0.5), "pixel")


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    assert "holds no Zarr array and no Zarr group" in refusal(tmp_path / "a.zarr")
    assert "does not exist" in refusal(tmp_path / "b.zarr")


# -- pairs and the command line --------------------------------------------------------------------


def test_stores_are_images_of_folders_and_labels_may_lie_in_them(tmp_path: Path) -> None:
    for name in "ab":
        path = write_image(tmp_path / "images" / f"{name}.ome.zarr", ZYX, "zyx")
        write_labels(path, ["cells"])
        plain(tmp_path / "labels" / f"{name}.zarr", (ZYX > 9000).astype(np.uint8))
    pairs = find_pairs(tmp_path / "images", tmp_path / "labels").pairs
    assert [p.image.name for p in pairs] == ["a", "b"]
    alone = tmp_path / "images" / "a.ome.zarr"
    (pair,) = find_pairs(alone, alone, spacing="3,1,1").pairs
    assert pair.image.spacing == (3.0, 1.0, 1.0)
    np.testing.assert_array_equal(pair.labels[...], ZYX > 9000)


def test_info_says_what_a_store_holds_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_image(tmp_path / "a.zarr", ZYX, "zyx")
    (path / "0" / "c" / "2" / "0" / "1").unlink()
    assert main(["info", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["levels"] == [[7, 45, 52], [7, 23, 26]]
    assert facts["translate"] == [10.0, 0.0, 0.0]
    assert facts["missing"] == {"chunks": 1, "of": 63, "first": "c/2/0/1"}
    assert main(["info", str(path), "--axes", "tyx", "--spacing", "300,300nm"]) == 0
    out = capsys.readouterr().out
    assert "1 of 63 chunks, such as c/2/0/1" in " ".join(out.split())
    assert "300 nm" in out
    assert main(["info", str(path), "--spacing", "1,2,3miles"]) == 1
    assert "is not known; use nm, um or mm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ("0.5,0.2,0.2um", [(0.5, "um"), (0.2, "um"), (0.2, "um")]),
        ("0.5 x 0.2 x 0.2 µm", [(0.5, "um"), (0.2, "um"), (0.2, "um")]),
        (" 65, 65 nm ", [(65.0, "nm"), (65.0, "nm")]),
        ("1um,65nm,65nm", [(1.0, "um"), (65.0, "nm"), (65.0, "nm")]),
        ("1e-1,.2", [(0.1, "um"), (0.2, "um")]),
        ((2, 1), [(2.0, "um"), (1.0, "um")]),
    ],
)
def test_spacing_in_words(given: Any, sizes: list[tuple[float, str]]) -> None:
    assert list(parse_spacing(given).values()) == sizes
    assert list(parse_spacing(given)) == list("ZYX"[-len(sizes) :])


@pytest.mark.parametrize("given", ["", "1", "1,2,3,4", "0,1", "-1,1", "nan,1", "a,b", "1,2parsec"])
def test_spacing_that_is_none(given: str) -> None:
    with pytest.raises(UserError):
        parse_spacing(given)
