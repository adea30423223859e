"""Files that other libraries wrote: axes, shape, spacing, units, channels and values as written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from napari_unetseg import open_stack

IMAGE = np.random.default_rng(0).integers(0, 60_000, (2, 3, 33, 41), dtype=np.uint16)
SIZES = {"Z": 2.0, "Y": 0.5, "X": 0.25}
PLANES = "channel 1"
Said = tuple[str, tuple[float, ...], tuple[str, ...], tuple[str, ...]]
OME: Said = ("CZYX", (1.0, 2.0, 0.5, 0.25), ("pixel", "um", "um", "um"), ("DAPI", "GFP"))


def plain(path: Path) -> np.ndarray:
    tifffile.imwrite(path, IMAGE[0], photometric="minisblack", metadata=None)
    return IMAGE[0]


def centimetres(path: Path) -> np.ndarray:
    tifffile.imwrite(
        path, IMAGE[0, 0], resolution=(40_000, 20_000), resolutionunit="CENTIMETER", metadata=None
    )
    return IMAGE[0, 0]


def big(path: Path) -> np.ndarray:
    options: dict[str, Any] = {"tile": (16, 16), "compression": "zlib", "metadata": None}
    tifffile.imwrite(path, IMAGE[0], bigtiff=True, photometric="minisblack", **options)
    return IMAGE[0]


def imagej(path: Path) -> np.ndarray:
    said = {"axes": "TZCYX", "spacing": 2.0, "unit": "um", "finterval": 1.5}
    array = np.stack([IMAGE.swapaxes(0, 1)] * 2)
    tifffile.imwrite(path, array, imagej=True, resolution=(4.0, 2.0), metadata=said)
    return array


def ome(path: Path, **options: Any) -> np.ndarray:
    said: dict[str, Any] = {"axes": "CZYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    said |= {f"PhysicalSize{a}": size for a, size in SIZES.items()}
    tifffile.imwrite(path, IMAGE, ome=True, metadata=said, **options)
    return IMAGE


def big_ome(path: Path) -> np.ndarray:
    return ome(path, bigtiff=True, tile=(16, 16), compression="zstd", photometric="minisblack")


def store(path: Path, version: int, **options: Any) -> np.ndarray:
    """OME-Zarr 0.5 as Zarr 3, 0.4 as Zarr 2."""
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    scale = {"type": "scale", "scale": [1.0, *SIZES.values()]}
    levels = [{"path": "0", "coordinateTransformations": [scale]}]
    said = {
        "multiscales": [{"version": "0.4", "axes": axes, "datasets": levels}],
        "omero": {"channels": [{"label": n, "color": "FF0000"} for n in ("DAPI", "GFP")]},
    }
    group = zarr.open_group(path, mode="w", zarr_format=version)  # type: ignore[arg-type]
    group.create_array("0", data=IMAGE, **options)
    group.attrs.update({"ome": {"version": "0.5", **said}} if version == 3 else said)
    return IMAGE


def ngff(path: Path, version: str) -> np.ndarray:
    library = pytest.importorskip("ngff_zarr")
    image = library.to_ngff_image(
        IMAGE[0],
        dims=["z", "y", "x"],
        scale={a.lower(): size for a, size in SIZES.items()},
        axes_units=dict.fromkeys("zyx", "micrometer"),
    )
    several = library.to_multiscales(image, scale_factors=[2])
    library.to_ngff_zarr(str(path), several, version=version)
    return IMAGE[0]


def ome_zarr(path: Path, version: str) -> np.ndarray:
    writer = pytest.importorskip("ome_zarr.writer")
    formats = pytest.importorskip("ome_zarr.format")
    writer.write_image(
        IMAGE,
        str(path),
        axes="czyx",
        scale_factors=[2],
        scale={"c": 1.0} | {a.lower(): size for a, size in SIZES.items()},
        axes_units=dict.fromkeys("zyx", "micrometer"),
        fmt=getattr(formats, f"FormatV{version}")(),
    )
    return IMAGE


def bioio_tiff(path: Path) -> np.ndarray:
    writer = pytest.importorskip("bioio_ome_tiff.writers").OmeTiffWriter
    sizes = pytest.importorskip("bioio_base.types").PhysicalPixelSizes(**SIZES)
    names = {"dim_order": "CZYX", "channel_names": ["DAPI", "GFP"]}
    writer.save(IMAGE, str(path), physical_pixel_sizes=sizes, **names)
    return IMAGE


def bioio_zarr(path: Path, version: int) -> np.ndarray:
    writers = pytest.importorskip("bioio_ome_zarr.writers")
    channels = [writers.Channel(label=n, color="FF0000") for n in ("DAPI", "GFP")]
    writers.OMEZarrWriter(
        store=str(path),
        level_shapes=[IMAGE.shape],
        dtype=IMAGE.dtype,
        zarr_format=version,
        channels=channels,
        axes_names=list("czyx"),
        axes_types=["channel", "space", "space", "space"],
        axes_units=[None, *["micrometer"] * 3],
        physical_pixel_size=[1.0, *SIZES.values()],
    ).write_full_volume(IMAGE)
    return IMAGE


UNNAMED = (*OME[:3], ("channel 1", "channel 2"))
VOLUME = ("ZYX", (2.0, 0.5, 0.25), ("um",) * 3, (PLANES,))
TABLE: dict[str, tuple[Callable[[Path], np.ndarray], Said]] = {
    "plain.tif": (plain, ("ZYX", (1.0,) * 3, ("pixel",) * 3, (PLANES,))),
    "centimetres.tif": (centimetres, ("YX", (0.5, 0.25), ("um",) * 2, (PLANES,))),
    "big.btf": (big, ("ZYX", (1.0,) * 3, ("pixel",) * 3, (PLANES,))),
    "imagej.tif": (
        imagej,
        (
            "TZCYX",
            (1.5, 2.0, 1.0, 0.5, 0.25),
            ("s", "um", "pixel", "um", "um"),
            ("channel 1", "channel 2"),
        ),
    ),
    "a.ome.tif": (ome, OME),
    "big.ome.tif": (big_ome, OME),
    "two.zarr": (lambda p: store(p, 2, chunks=(1, 2, 16, 16)), OME),
    "three.zarr": (lambda p: store(p, 3, chunks=(1, 2, 16, 16)), OME),
    "sharded.zarr": (lambda p: store(p, 3, chunks=(1, 1, 8, 8), shards=(1, 3, 16, 16)), OME),
    "ngff4.zarr": (lambda p: ngff(p, "0.4"), VOLUME),
    "ngff5.zarr": (lambda p: ngff(p, "0.5"), VOLUME),
    "ome4.zarr": (lambda p: ome_zarr(p, "04"), UNNAMED),
    "ome5.zarr": (lambda p: ome_zarr(p, "05"), UNNAMED),
    "bioio.ome.tif": (bioio_tiff, OME),
    "bioio2.zarr": (lambda p: bioio_zarr(p, 2), OME),
    "bioio3.zarr": (lambda p: bioio_zarr(p, 3), OME),
}


@pytest.mark.filterwarnings("ignore:::(bioio|ngff_zarr|ome_|zarr|xarray|dask|itkwasm)")
@pytest.mark.parametrize("name", TABLE)
def test_a_file_is_opened_as_it_was_written(tmp_path: Path, name: str) -> None:
    write, said = TABLE[name]
    array = write(tmp_path / name)
    stack = open_stack(tmp_path / name)
    assert stack.data.shape == array.shape
    assert (stack.axes, stack.units, stack.channels) == (said[0], said[2], said[3])
    assert stack.spacing == pytest.approx(said[1])
    np.testing.assert_array_equal(np.asarray(stack.data), array)
