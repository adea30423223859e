"""OME-Zarr 0.4 and 0.5, and plain Zarr arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.io.axes import arranged, letters_of
from napari_unetseg.io.readers.zarr_array import ZarrArray
from napari_unetseg.io.readers.zarr_nodes import Node, child_of, is_zarr, read_node
from napari_unetseg.io.scenes import listed
from napari_unetseg.io.units import PIXEL, Sizes, unit_name

MOST_LEVELS = 64


@dataclass(frozen=True, slots=True)
class _Level:
    """An array of an image, with its spacing and origin along each axis."""

    node: Node
    scale: tuple[float, ...]
    translation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _ImageMetadata:
    """Metadata common to all levels of an image; ``given`` sizes are set by the user."""

    letters: str
    order: tuple[int, ...]
    units: Mapping[str, str]
    given: Sizes
    channels: tuple[str, ...]
    colors: tuple[str, ...]


def open_zarr(
    path: Path,
    axes: str | None = None,
    *,
    labels: bool = False,
    sizes: Sizes | None = None,
    name: str = "image",
) -> tuple[Stack, ...]:
    """Open an image of a Zarr store at all levels, the full resolution first.

    Parameters
    ----------
    path
        The store, or a group or an array in it, for which `is_zarr` is true.
    axes
        One letter for each axis in the file, if its metadata are missing or wrong.
    labels
        Open labels; for an image with one label group, that group.
    sizes
        Spacing and unit of axes, if the metadata are missing or wrong.
    name
        The name of the stacks.

    Returns
    -------
    tuple of Stack
        A plain array is an image of one level.

    Raises
    ------
    UserError
        It is a plate or holds several images, which the message lists; it is damaged, refers to
        files outside the store, has unsupported codecs, or the axes do not fit.
    """
    node = _image_of(read_node(path), labels=labels)
    if node.array is not None:
        found, levels = _plain_axes(node), [_Level(node, (), ())]
        units: Mapping[str, str] = {}
        channels: tuple[str, ...] = ()
        colors: tuple[str, ...] = ()
    else:
        scales = node.ome["multiscales"][0]
        named = scales.get("axes") or "tczyx"
        found = _letters(node, named)
        levels = _levels(node, scales, len(found))
        units = _units(found, named)
        channels, colors = _omero(node)
    first = levels[0].node
    letters = letters_of(axes, found, first.shape, first.path)
    metadata = _ImageMetadata(
        letters, arranged(letters, first.shape), units, sizes or {}, channels, colors
    )
    stacks = tuple(_stack(level, metadata, name) for level in levels)
    if not labels and stacks[0].data.has_no_chunks():
        raise UserError(
            f"{levels[0].node.path} has no pixels: all of its chunks are missing; copy or save "
            "it again."
        )
    return stacks


def label_names(path: Path) -> tuple[str, ...]:
    """Names of the label groups of an image; empty if there are none."""
    if not any((path / "labels" / name).exists() for name in (".zgroup", "zarr.json")):
        return ()
    node = read_node(path / "labels")
    names = node.ome.get("labels", ())
    return tuple(str(n) for n in _entries(node, names) if is_zarr(child_of(node, n)))


def _stack(level: _Level, metadata: _ImageMetadata, name: str) -> Stack:
    axes = "".join(metadata.letters[i] for i in metadata.order)
    scale = dict(zip(metadata.letters, level.scale, strict=False))
    shift = dict(zip(metadata.letters, level.translation, strict=False))
    sizes = {a: (s, metadata.units.get(a, PIXEL)) for a, s in scale.items() if s > 0}
    sizes |= metadata.given
    return Stack(
        ZarrArray(level.node, metadata.order),
        axes,
        tuple(sizes.get(a, (1.0, PIXEL))[0] for a in axes),
        tuple(sizes.get(a, (1.0, PIXEL))[1] for a in axes),
        metadata.channels,
        name,
        tuple(shift.get(a, 0.0) for a in axes),
        metadata.colors,
    )


# -- which node ------------------------------------------------------------------------------------


def _image_of(node: Node, *, labels: bool, depth: int = 0) -> Node:
    """The array or the multiscale group of a node."""
    if labels and depth == 0 and node.array is None and (names := label_names(node.path)):
        return _only(node, [f"labels/{n}" for n in names], "groups of labels", labels=True)
    if node.array is not None or _described(node):
        return node
    if depth > 3:
        raise UserError(f"{node.path} is not an image itself; choose one inside it.")
    ome = node.ome
    if isinstance(plate := ome.get("plate"), dict):
        wells = _paths(node, plate.get("wells"))
        raise UserError(
            f"{node.path} is a plate with {_several(wells, 'well')}; choose a field of a well, "
            f"such as {node.path.name}/{(wells or ['A/1'])[0]}/0."
        )
    if isinstance(well := ome.get("well"), dict):
        return _only(node, _paths(node, well.get("images")), "fields", labels=labels)
    if "bioformats2raw.layout" in ome:
        series = [c for c in _children(node) if c.isdigit()]
        return _only(node, sorted(series, key=int), "images", labels=labels, depth=depth)
    if isinstance(ome.get("labels"), list):
        groups = [str(n) for n in _entries(node, ome["labels"])]
        return _only(node, groups, "groups of labels", labels=labels, depth=depth)
    return _only(node, _children(node), "arrays or groups", labels=labels, depth=depth)


def _described(node: Node) -> bool:
    """Whether a group has a multiscale image with levels."""
    scales = node.ome.get("multiscales")
    if not isinstance(scales, list) or not scales:
        return False
    if not isinstance(scales[0], dict) or not isinstance(scales[0].get("datasets"), list):
        raise _wrong(node, "its levels are not described")
    return True


def _only(node: Node, names: Sequence[str], what: str, *, labels: bool, depth: int = 0) -> Node:
    """The only child of a group; with several children the user must choose."""
    if not names:
        raise UserError(f"{node.path} contains no image; choose a folder that contains one.")
    if len(names) > 1:
        raise UserError(
            f"{node.path} holds {len(names)} {what}: {listed(names)}; choose one, such as "
            f"{node.path.name}/{names[0]}."
        )
    part = read_node(child_of(node, names[0]), node.root)
    return _image_of(part, labels=labels, depth=depth + 1)


def _children(node: Node) -> list[str]:
    """Groups and arrays directly below a group."""
    try:
        names = sorted(p.name for p in node.path.iterdir() if p.name != "OME" and is_zarr(p))
    except OSError as error:
        raise UserError(f"No permission to read {node.path}; change its permissions.") from error
    return names


def _entries(node: Node, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple) or len(value) > 100_000:
        raise _wrong(node, "its parts are not listed")
    return list(value)


def _paths(node: Node, entries: Any) -> list[str]:
    """The paths in a list of wells or fields."""
    named = [e.get("path") if isinstance(e, dict) else None for e in _entries(node, entries)]
    return [str(child_of(node, n).relative_to(node.path)) for n in named if n is not None]


def _several(names: Sequence[str], what: str) -> str:
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}: {listed(names)}"


def _wrong(node: Node, reason: str) -> UserError:
    return UserError(f"{node.path} has invalid OME-Zarr metadata ({reason}); save it again.")


# -- what the arrays mean --------------------------------------------------------------------------


def _plain_axes(node: Node) -> str:
    """Letters of a plain array's axes, from the names set by xarray and Zarr 3."""
    array = node.array or {}
    names = array.get("dimension_names") or node.attributes.get("_ARRAY_DIMENSIONS") or []
    letters = "".join(str(n)[:1].upper() for n in names if n) if isinstance(names, list) else ""
    fits = len(letters) == len(node.shape) == len(set(letters))
    if fits and set(letters) <= set("TCZYXS") and {"Y", "X"} <= set(letters):
        return letters
    return Stack.default_axes(node.shape)


def _letters(node: Node, named: Any) -> str:
    """One letter for each axis of a multiscale image."""
    letters = ""
    for axis in _entries(node, list(named) if isinstance(named, str) else named):
        name, kind = (axis, "") if isinstance(axis, str) else _axis(node, axis)
        letter = {"channel": "C", "time": "T"}.get(kind, name[:1].upper())
        if not letter.isalpha() or not letter.isascii() or letter in letters:
            letter = next((s for s in "PQUVWRH" if s not in letters), "")
        letters += letter
    if not {"Y", "X"} <= set(letters):
        raise _wrong(node, f"its axes {letters!r} have no Y and X")
    return letters


def _axis(node: Node, axis: Any) -> tuple[str, str]:
    if not isinstance(axis, dict) or not isinstance(axis.get("name"), str) or not axis["name"]:
        raise _wrong(node, "an axis has no name")
    return axis["name"], str(axis.get("type", ""))


def _units(letters: str, named: Any) -> dict[str, str]:
    units = (a.get("unit") if isinstance(a, dict) else None for a in named)
    return {
        a: unit_name(u if isinstance(u, str) else None)
        for a, u in zip(letters, units, strict=False)
    }


def _levels(node: Node, scales: Mapping[str, Any], n: int) -> list[_Level]:
    datasets = scales["datasets"]
    if not 0 < len(datasets) <= MOST_LEVELS or not all(isinstance(d, dict) for d in datasets):
        raise _wrong(node, "its levels are not described")
    after = _transform(node, scales.get("coordinateTransformations"), n)
    levels = []
    for dataset in datasets:
        part = read_node(child_of(node, dataset.get("path")), node.root)
        if part.array is None or len(part.shape) != n:
            raise _wrong(node, f"{part.path.name} is not an array with its {n} axes")
        scale, shift = _transform(node, dataset.get("coordinateTransformations"), n)
        levels.append(
            _Level(
                part,
                tuple(a * b for a, b in zip(scale, after[0], strict=True)),
                tuple(t * b + u for t, b, u in zip(shift, *after, strict=True)),
            )
        )
    return levels


def _transform(node: Node, steps: Any, n: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Combine a list of transformations to a scale and a translation."""
    scale, shift = (1.0,) * n, (0.0,) * n
    for step in _entries(node, steps or []):
        kind = step.get("type") if isinstance(step, dict) else None
        if kind == "identity":
            continue
        values = step.get(kind) if kind in ("scale", "translation") else None
        if not isinstance(values, list) or len(values) != n or not all(map(_is_number, values)):
            raise _wrong(node, "its scale or translation is not a number for each axis")
        numbers = tuple(map(float, values))
        if kind == "scale":
            scale = tuple(a * b for a, b in zip(scale, numbers, strict=True))
            shift = tuple(a * b for a, b in zip(shift, numbers, strict=True))
        else:
            shift = tuple(a + b for a, b in zip(shift, numbers, strict=True))
    return scale, shift


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _omero(node: Node) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and colours of channels; empty unless given for all channels."""
    omero = node.ome.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list) or not all(isinstance(c, dict) for c in channels):
        return (), ()
    names = tuple(str(c.get("label") or f"channel {i + 1}")[:200] for i, c in enumerate(channels))
    colors = tuple(_color(c.get("color")) for c in channels)
    return names, colors if all(colors) else ()


def _color(value: Any) -> str:
    """A colour as ``#rrggbb``; empty if it is invalid."""
    text = str(value).removeprefix("#")[:6].lower()
    return f"#{text}" if len(text) == 6 and set(text) <= set("0123456789abcdef") else ""
