"""Whatever TIFFs are written: all planes in a file are opened, or a sentence says why not."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from hypothesis import event, given, settings
from hypothesis import strategies as st

from napari_unetseg.core.errors import UserError
from napari_unetseg.io.open_image import contents_of, open_stack
from napari_unetseg.io.readers import lazy_array

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack

EXAMPLES = int(os.environ.get("UNETSEG_TIFF_EXAMPLES", "120"))
PAGES = [(10, 12), (12, 10), (10, 12, 3)]
"""No page is a half, a third or a quarter of another, which would be a resolution of it."""


@dataclass(frozen=True)
class Write:
    """One call of a writer: planes of one kind, each filled with a number of its own."""

    leading: tuple[int, ...]
    page: tuple[int, ...]
    dtype: str
    options: dict[str, Any]
    axes: str | None = None

    @property
    def planes(self) -> int:
        return int(np.prod(self.leading))

    def array(self, first: int) -> np.ndarray:
        numbers = np.arange(first, first + self.planes)
        values = numbers.reshape(*self.leading, *(1,) * len(self.page))
        return np.broadcast_to(values, (*self.leading, *self.page)).astype(self.dtype)


@st.composite
def writes(draw: st.DrawFn) -> Write:
    page = draw(st.sampled_from(PAGES))
    leading = draw(st.sampled_from([(), (), (2,), (3,), (2, 2)]))
    if len(page) == 3:
        leading = leading[:1]
    options: dict[str, Any] = {
        "compression": draw(st.sampled_from([None, None, "zlib"])),
        "tile": draw(st.sampled_from([None, None, (16, 16)])),
        "subfiletype": draw(st.sampled_from([0, 0, 0, 1])),
        "photometric": "rgb" if len(page) == 3 else draw(st.sampled_from([None, "minisblack"])),
    }
    dtype = draw(st.sampled_from(["u1", "u2", "u2", "f4"]))
    axes = draw(st.sampled_from([None, "TZCQ"[4 - len(leading) - 2 : 4 - 2]])) if leading else None
    return Write(leading, page, dtype, options, axes)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, list[Write], dict[str, Any]]:
    """A flavour, what is written, and how; writes after the first are mostly of its kind."""
    flavour = draw(st.sampled_from(["pages", "shaped", "append", "ome", "imagej"]))
    first = draw(writes())
    count = 0 if flavour == "imagej" else draw(st.integers(0, 3))
    more = [draw(st.one_of(st.just(first), st.just(first), writes())) for _ in range(count)]
    how = {"bigtiff": draw(st.booleans()) and flavour != "imagej"}
    how["byteorder"] = draw(st.sampled_from("<>")) if flavour != "imagej" else ">"
    return flavour, [first, *more], how


def write_file(
    path: Path, flavour: str, parts: list[Write], how: dict[str, Any]
) -> tuple[list[int], int]:
    """Write it; the numbers of its planes, without those of thumbnails, and how many there are."""
    numbers: list[tuple[int, bool]] = []
    how = {**how, **({flavour: True} if flavour in ("ome", "imagej") else {})}
    for part in parts:
        first = len(numbers) + 1
        numbers += [(first + n, bool(part.options["subfiletype"])) for n in range(part.planes)]
    arrays = np.cumsum([1, *(p.planes for p in parts)])[:-1]
    if flavour == "append":
        for part, first in zip(parts, arrays, strict=True):
            tifffile.imwrite(path, part.array(int(first)), append=path.exists(), **part.options)
    else:
        with tifffile.TiffWriter(path, **how) as writer:
            for part, first in zip(parts, arrays, strict=True):
                write_part(writer, flavour, part, int(first))
    alone = all(reduced for _, reduced in numbers)
    return [n for n, reduced in numbers if alone or not reduced], len(numbers)


def write_part(writer: tifffile.TiffWriter, flavour: str, part: Write, first: int) -> None:
    array = part.array(first)
    if flavour == "pages":
        for page in array.reshape(-1, *part.page):
            writer.write(page, metadata=None, contiguous=False, **part.options)
        return
    inner = "YXS"[: len(part.page)]
    said = {"axes": part.axes + inner} if part.axes else {}
    options = dict(part.options)
    if flavour == "imagej":
        options.pop("tile")
        said = {"axes": f"{'TZ'[: len(part.leading)]}{inner}"}
    writer.write(array, metadata=said, **options)


def planes_of(stack: Stack) -> list[float]:
    """The number that each plane is filled with, in the order of the stack."""
    last = [stack.axes.index(a) for a in "YXS" if a in stack.axes]
    data = np.moveaxis(np.asarray(stack.data[...]), last, range(-len(last), 0))
    flat = data.reshape(-1, int(np.prod(data.shape[-len(last) :])))
    assert (flat == flat[:, :1]).all(), "a plane made of several"
    return [float(v) for v in flat[:, 0]]


def opened(path: Path, **how: Any) -> Stack | str:
    """The stack, or the sentence that says why not."""
    lazy_array.clear_cache()
    try:
        stack = open_stack(path, **how)
        np.asarray(stack.data[...])
    except UserError as error:
        return str(error)
    return stack


def is_sentence(text: Any) -> bool:
    return isinstance(text, str) and text.endswith(".") and "\n" not in text


@pytest.mark.filterwarnings("ignore:.*stored as RGB:DeprecationWarning")
@settings(max_examples=EXAMPLES)
@given(file=files())
def test_all_planes_are_opened_or_a_sentence_says_why_not(
    file: tuple[str, list[Write], dict[str, Any]],
) -> None:
    flavour, parts, how = file
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.ome.tif" if flavour == "ome" else "a.tif")
        try:
            expected, total = write_file(path, flavour, parts, how)
        except ValueError:  # what tifffile does not write
            event("not written")
            return
        stack = opened(path)
        event(f"{flavour}: {'refused' if isinstance(stack, str) else 'opened'}")
        if not isinstance(stack, str):
            found = planes_of(stack)
            assert set(expected) <= set(found) <= set(range(1, total + 1))
            assert found == sorted(set(found)), "planes twice, or in another order"
            return
        assert is_sentence(stack)
        images = contents_of(path)
        if any({"C", "S"} <= set(image.axes) for image in images):
            return
        assert len(images) > 1, "a whole file of one image was refused"
        each = [n for i in range(len(images)) for n in planes_of(open_stack(path, series=i + 1))]
        assert set(expected) <= set(each), "an image cannot be chosen"


NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def write_ome(
    path: Path, sizes: tuple[int, int], there: list[int], compression: str | None
) -> None:
    """An OME-TIFF that speaks of T × Z planes and has some of them, filled with number + 1."""
    data = "".join(
        f'<TiffData FirstT="{n // sizes[1]}" FirstZ="{n % sizes[1]}" IFD="{i}" PlaneCount="1"/>'
        for i, n in enumerate(there)
    )
    text = (
        f'<?xml version="1.0"?><OME xmlns="{NAMESPACE}"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'DimensionOrder="XYZCT" Type="uint16" SizeX="12" SizeY="10" SizeZ="{sizes[1]}" SizeC="1" '
        f'SizeT="{sizes[0]}"><Channel ID="Channel:0"/>{data}</Pixels></Image></OME>'
    )
    with tifffile.TiffWriter(path) as writer:
        for i, n in enumerate(there):
            page = np.full((10, 12), n + 1, np.uint16)
            more: dict[str, Any] = {"contiguous": False, "metadata": None}
            writer.write(
                page, description=text if i == 0 else None, compression=compression, **more
            )


@settings(max_examples=EXAMPLES // 2)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    data=st.data(),
    compression=st.sampled_from([None, "zlib"]),
)
def test_planes_that_a_file_lacks_are_never_black_in_silence(
    sizes: tuple[int, int], data: st.DataObject, compression: str | None
) -> None:
    every = list(range(sizes[0] * sizes[1]))
    there = data.draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
    lacking = len(every) - len(there)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tif"
        write_ome(path, sizes, there, compression)
        stack = opened(path)
        if not lacking:
            assert not isinstance(stack, str)
            assert planes_of(stack) == [n + 1 for n in every]
            return
        assert is_sentence(stack)
        assert f"lacks {lacking} of {len(every)} planes" in str(stack)
        filled = opened(path, missing_planes="fill")
        assert not isinstance(filled, str)
        assert planes_of(filled) == [n + 1 if n in there else 0 for n in every]
        assert f"lacks {lacking} of" in filled.notes[0]
        dropped = opened(path, missing_planes="drop")
        if isinstance(dropped, str):
            event("nothing is whole")
            assert is_sentence(dropped)
            return
        grid = np.isin(np.reshape(every, sizes), there)
        assert len(planes_of(dropped)) == max(
            grid.all(1).sum() * sizes[1], grid.all(0).sum() * sizes[0]
        )
        assert set(planes_of(dropped)) <= {n + 1 for n in there}
