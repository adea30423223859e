"""Small files of every kind that is opened, and ways to damage them or to make them lie."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from PIL import Image

__all__ = ["Files", "Seed", "make_seeds", "mutate", "write_case"]

Files = dict[str, bytes]
OUTSIDE = "outside.txt"
"""A file beside the folder of a case; whatever opens it was led out of the folder."""
NUMBERS = (
    0, 1, -1, 2, 3, 7, 127, 255, 256, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40,
    2**53, 2**63 - 1, 2**64, 10**400, 0.5, -1e308, float("nan"), float("inf"),
)  # fmt: skip
OTHERS: tuple[Any, ...] = (
    None, True, "", "/", "..", f"../{OUTSIDE}", f"../../{OUTSIDE}", "/etc/passwd", "a\0b", "c:\\x",
    "x" * 70_000, "\ud800", [], {}, [[]], [0], [1, 2, 3], {"a": 1}, "os.system", "pickle",
    "json2", "msgpack2", "vlen-bytes", "|O", "<U9", "object", "float16", ">f8", "int64", "C", "F",
    "zyx", "sharding_indexed", "transpose", "numcodecs.pickle",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seed:
    """A good file or store: its kind, its files, and which path in it is opened."""

    kind: str
    files: Files
    entry: str


def write_case(folder: Path, files: Files) -> None:
    """Write the files of a case; a name that ends in ``@`` is a link to its content."""
    for name, data in files.items():
        path = folder / name.removesuffix("@")
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("@"):
            os.symlink(os.fsdecode(data), path)
        else:
            path.write_bytes(data)


# -- seeds -----------------------------------------------------------------------------------------


def make_seeds() -> list[Seed]:
    """One of each kind, all of them small."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 4000, (3, 12, 10), dtype=np.uint16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_tiffs(folder, image)
        _write_stores(folder, image)
        np.save(folder / "a.npy", image)
        Image.fromarray(image[0].astype(np.uint8)).save(folder / "grey.png")
        Image.fromarray(image[0]).save(folder / "deep.png")
        Image.fromarray(image.astype(np.uint8).transpose(1, 2, 0)).save(folder / "rgb.jpg")
        _write_model(folder / "m.safetensors")
        entries = {"well.zarr": "well.zarr/A/1", "set": "set/a.ome.tif"}
        return [_seed(folder, p.name, entries) for p in sorted(folder.iterdir())]


def _seed(folder: Path, name: str, entries: dict[str, str]) -> Seed:
    path = folder / name
    found = [p for p in sorted(path.rglob("*")) if p.is_file()] if path.is_dir() else [path]
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}
    return Seed(name, files, entries.get(name, name))


def _write_tiffs(folder: Path, image: np.ndarray) -> None:
    write: Any = tifffile.imwrite
    write(folder / "plain.tif", image, photometric="minisblack")
    write(folder / "tiled.tif", image, tile=(16, 16), compression="zlib", photometric="minisblack")
    write(folder / "big.tif", image, bigtiff=True, compression="zstd", photometric="minisblack")
    write(
        folder / "imagej.tif",
        image,
        imagej=True,
        resolution=(2.0, 2.0),
        metadata={"axes": "ZYX", "spacing": 0.5, "unit": "um"},
    )
    with tifffile.TiffWriter(folder / "series.tif") as writer:
        for plane in image:
            writer.write(plane, compression="zlib")
    with tifffile.TiffWriter(folder / "pyramid.tif") as writer:
        writer.write(image, subifds=1, photometric="minisblack")
        writer.write(image[:, ::2, ::2], subfiletype=1, photometric="minisblack")
        writer.write(image[0, :7, :5], subfiletype=1)
    ome = {"axes": "ZYX", "PhysicalSizeX": 0.2, "PhysicalSizeXUnit": "um"}
    one = folder / "one.ome.tif"
    write(one, image, metadata=ome, photometric="minisblack")
    one.write_bytes(re.sub(rb"uuid:[-0-9a-f]{36}", b"uuid:" + b"0" * 36, one.read_bytes()))
    (folder / "set").mkdir()
    tiff = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{n}.ome.tif">'
        f"urn:uuid:00000000-0000-0000-0000-00000000000{z}</UUID></TiffData>"
        for z, n in enumerate("ab")
    )
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:00000000-0000-0000-0000-000000000000"><Image ID="Image:0"><Pixels '
        'ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="10" SizeY="12" SizeZ="2" '
        f'SizeC="1" SizeT="1"><Channel ID="Channel:0" SamplesPerPixel="1"/>{tiff}</Pixels></Image>'
        "</OME>"
    )
    for z, n in enumerate("ab"):
        write(folder / "set" / f"{n}.ome.tif", image[z], description=text, metadata=None)


def _write_stores(folder: Path, image: np.ndarray) -> None:
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]

    def scales(levels: int) -> dict[str, Any]:
        transform = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]
        parts = [{"path": str(n), "coordinateTransformations": transform} for n in range(levels)]
        return {"multiscales": [{"version": "0.4", "axes": axes, "datasets": parts}]}

    for version in (2, 3):
        group = zarr.open_group(folder / f"ome{version}.zarr", mode="w", zarr_format=version)
        for level in range(2):
            data = np.ascontiguousarray(image[:, :: 2**level, :: 2**level])
            group.create_array(str(level), data=data, chunks=(1, 8, 8))
        said = {**scales(2), "omero": {"channels": [{"label": "DAPI", "color": "00FF00"}]}}
        group.attrs.update({"ome": {"version": "0.5", **said}} if version == 3 else said)
        plain = folder / f"plain{version}.zarr"
        zarr.create_array(plain, data=image, chunks=(2, 5, 5), zarr_format=version)
    shards = {"chunks": (1, 4, 5), "shards": (3, 8, 10)}
    zarr.create_array(folder / "shards.zarr", data=image, **shards)
    plate = zarr.open_group(folder / "well.zarr", mode="w", zarr_format=2)
    plate.attrs["plate"] = {"wells": [{"path": "A/1"}]}
    well = plate.create_group("A/1")
    well.attrs["well"] = {"images": [{"path": "0"}]}
    field = well.create_group("0")
    field.create_array("0", data=image, chunks=(1, 12, 10))
    field.attrs.update(scales(1))


def _write_model(path: Path) -> None:
    """A model with random weights."""
    import torch

    from napari_unetseg.core.image_stack import Normalization
    from napari_unetseg.core.labels import Classes, Structure
    from napari_unetseg.core.settings import NetSettings
    from napari_unetseg.models.model import Model
    from napari_unetseg.models.registry import build

    torch.manual_seed(0)
    classes = Classes((Structure(1),), True)
    net = NetSettings(out_channels=classes.out_channels, depth=1, width=2)
    weights = {k: v.clone() for k, v in build(net).state_dict().items()}
    scaling = Normalization((0.0,), (1.0,), (0.5,))
    model = Model(net, weights, classes, ("a",), scaling, (1.0, 1.0), ("pixel", "pixel"))
    model.save(path)


# -- mutations -------------------------------------------------------------------------------------


def mutate(seed: Seed, rng: np.random.Generator) -> Files:
    """The files of a seed with one to four changes."""
    files = dict(seed.files)
    for _ in range(min(int(rng.geometric(0.6)), 4)):
        named = [n for n in files if not n.endswith("@") and files[n]]
        if not named:
            break
        notes = [n for n in named if _is_json(n)]
        name = str(rng.choice(notes if notes and rng.random() < 0.8 else named))
        if len(seed.files) > 1 and name != seed.entry and rng.random() < 0.06:
            _replace_file(files, name, rng)
        else:
            files[name] = _changed(name, files[name], rng)
    return files


def _is_json(name: str) -> bool:
    return name.endswith(("zarr.json", ".zarray", ".zgroup", ".zattrs"))


def _replace_file(files: Files, name: str, rng: np.random.Generator) -> None:
    """A file goes, is empty, is another one, a folder, or a link (out, to itself, up)."""
    old = files.pop(name)
    links = (f"../{OUTSIDE}", "/etc/passwd", Path(name).name, "..", "/dev/zero")
    choice = int(rng.integers(5))
    if choice == 1:
        files[name] = b""
    elif choice == 2:
        files[name] = files[str(rng.choice(sorted(files)))] if files else old
    elif choice == 3:
        files[f"{name}/x"] = old
    elif choice == 4:
        files[f"{name}@"] = str(rng.choice(links)).encode()


def _changed(name: str, data: bytes, rng: np.random.Generator) -> bytes:
    if _is_json(name) and rng.random() < 0.85:
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            return _bytes(data, rng)
        return _lie(content, rng).encode(errors="replace")
    ways: list[Callable[[bytes, np.random.Generator], bytes]] = [_bytes]
    if name.endswith(".tif"):
        ways += [_tag, _tag, _digits] if b"<OME" not in data else [_tag, _xml, _xml, _digits]
    elif name.endswith(".safetensors"):
        ways += [_header, _description, _description]
    elif name.endswith((".npy", ".png")):
        ways += [_digits, _early]
    return ways[int(rng.integers(len(ways)))](data, rng)


def _bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip, set, cut, repeat or remove some bytes."""
    raw = bytearray(data)
    at, size = int(rng.integers(max(len(raw), 1))), int(rng.integers(1, 17))
    match int(rng.integers(7)):
        case 0:
            raw[at : at + 1] = bytes([raw[at] ^ (1 << int(rng.integers(8)))]) if raw else b""
        case 1:
            raw[at : at + size] = rng.bytes(len(raw[at : at + size]))
        case 2:
            del raw[at:]
        case 3:
            del raw[at : at + size]
        case 4:
            raw[at:at] = raw[at : at + size] * int(rng.integers(1, 50))
        case 5:
            raw[at : at + 4] = struct.pack("<q", int(rng.choice([0, -1, 2**31 - 1, 2**24])))[:4]
        case _:
            raw[at:at] = rng.bytes(size)
    return bytes(raw)


def _early(data: bytes, rng: np.random.Generator) -> bytes:
    return _bytes(data[:64], rng) + data[64:]


def _digits(data: bytes, rng: np.random.Generator) -> bytes:
    """Other digits in a number that is text."""
    found = list(re.finditer(rb"\d+", data))
    if not found:
        return _bytes(data, rng)
    match = found[int(rng.integers(len(found)))]
    new = b"".join(b"%d" % d for d in rng.integers(0, 10, len(match[0])))
    new = b"9" * len(new) if rng.random() < 0.5 else new
    return data[: match.start()] + new + data[match.end() :]


def _tag(data: bytes, rng: np.random.Generator) -> bytes:
    """Another type, count or value of a tag of the first page."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            tags = list(file.pages.first.tags)
            big, order = file.is_bigtiff, file.byteorder
        tag = tags[int(rng.integers(len(tags)))]
        value = abs(int(rng.choice([0, 1, 2, 3, 8, 255, 65535, 2**31 - 1, 2**32 - 1, len(data)])))
        count, offset = ("Q", 12) if big else ("I", 8)
        places = [(2, "H", value % 20), (4, count, value), (offset, "I", value)]
        place, form, number = places[int(rng.integers(3))]
        raw = bytearray(data)
        struct.pack_into(order + form, raw, tag.offset + place, number)
        return bytes(raw)
    except Exception:  # noqa: BLE001 - an earlier change left nothing to read
        return _bytes(data, rng)


def _xml(data: bytes, rng: np.random.Generator) -> bytes:
    """Another attribute of the OME-XML; the rest of the file moves along."""
    start, end = data.find(b"<?xml"), data.find(b"</OME>")
    found = list(re.finditer(rb'"([^"]*)"', data[start:end]))
    if start < 0 or not found:
        return _bytes(data, rng)
    match = found[int(rng.integers(len(found)))]
    others = [str(v) for v in (*NUMBERS, *OTHERS) if len(str(v)) <= len(match[1])]
    value = str(rng.choice(others)).encode(errors="replace").replace(b"\0", b"?")
    new = value.ljust(len(match[1]))[: len(match[1])]
    if match[1].endswith(b".tif"):
        new = (b"../" + OUTSIDE.encode())[: len(match[1])].ljust(len(match[1]))
    return data[: start + match.start(1)] + new + data[start + match.end(1) :]


def _lie(content: Any, rng: np.random.Generator) -> str:
    """JSON with one place changed: another value, a missing key, a repeated or nested part."""
    places = list(_places(content))
    if not places:
        return json.dumps(content)
    parent, key = places[int(rng.integers(len(places)))]
    old = parent[key]
    pool = NUMBERS if type(old) in (int, float) and rng.random() < 0.8 else (*NUMBERS, *OTHERS)
    match int(rng.integers(8)):
        case 0:
            del parent[key]
        case 1 if isinstance(old, list) and old:
            parent[key] = old * int(rng.choice([2, 3, 40]))
        case 2:
            other_parent, other_key = places[int(rng.integers(len(places)))]
            parent[key] = json.loads(json.dumps(other_parent[other_key]))
        case 3 if rng.random() < 0.1:
            text = json.dumps(content)
            return text.replace(json.dumps(old), "[" * 90_000 + "]" * 90_000, 1)
        case _:
            parent[key] = pool[int(rng.integers(len(pool)))]
    return json.dumps(content, ensure_ascii=bool(rng.random() < 0.9))


def _places(content: Any) -> Any:
    """Each value in JSON, as what holds it and its key there."""
    keys: Any = content.keys() if isinstance(content, dict) else range(len(content))
    for key in list(keys) if isinstance(content, dict | list) else ():
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _places(content[key])


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _joined(header: str, weights: bytes) -> bytes:
    raw = header.encode(errors="replace")
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + weights


def _header(data: bytes, rng: np.random.Generator) -> bytes:
    """A lie in the header of a model: shapes, offsets, types."""
    try:
        header, weights = _split(data)
        return _joined(_lie(header, rng), weights)
    except Exception:  # noqa: BLE001 - an earlier change left nothing to read
        return _bytes(data, rng)


def _description(data: bytes, rng: np.random.Generator) -> bytes:
    """A lie in the description of a model, with a checksum that fits."""
    import hashlib

    from safetensors.numpy import load

    try:
        header, weights = _split(data)
        text = _lie(json.loads(header["__metadata__"]["description"]), rng)
        digest = hashlib.sha256(text.encode())
        for name, array in sorted(load(data).items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode() + array.tobytes())
        header["__metadata__"] |= {"description": text, "sha256": digest.hexdigest()}
        return _joined(json.dumps(header), weights)
    except Exception:  # noqa: BLE001 - an earlier change left nothing to read
        return _bytes(data, rng)
