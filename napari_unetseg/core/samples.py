"""Images and annotations → blocks (`blocks.py`) → samples."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Self

import numpy as np

from napari_unetseg.core.blocks import Block, Places, Plane, count_classes, split
from napari_unetseg.core.errors import TrainingError, UserError
from napari_unetseg.core.image import Normalization, Stack
from napari_unetseg.core.label_checks import LabelValues, check_together, notes_of, read_values
from napari_unetseg.core.labels import IGNORE, Classes, LabelKind, Structure
from napari_unetseg.core.singleton_axes import on_grid, same_but_singletons
from napari_unetseg.core.sparse import planes_with

__all__ = ["Pair", "TrainingData", "values_of"]

FEWEST_VOXELS = 30
"""A score needs this many labelled voxels of every class in validation blocks."""
FEWEST_BLOCKS = 2
"""… in at least this many blocks."""
MOST_BLOCKS, MOST_SCORED = 64, 2**21
"""Validation blocks that are scored, and their voxels, so that a score stays cheap."""
CACHE_BYTES = 2**30
MOST_FITTED = 2**20
"""Voxels of the pieces that a last layer is fitted to."""
MOST_PIECES = 64
MOST_LOOKED = 12
"""Label images that are looked at, and not only counted."""
PIECE_EDGE = {2: (640, 640), 3: (32, 128, 128)}


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Pair:
    """One annotated image.

    Parameters
    ----------
    image
        A `Stack`, or an array whose axes are given by ``axes``.
    labels, kind, corrections, ignore, newer
        See the attributes; ``kind`` must be given, its name will do.
    axes
        Axes of an array, such as ``ZCYX`` (default ``TZYX`` from the right, ``YXS`` for RGB).

    Attributes
    ----------
    image
        The image.
    labels
        Array-like of the image's grid shape, any integer dtype or whole floats; axes of length 1
        make no difference.
    kind
        What the numbers in ``labels`` mean.
    corrections
        Array-like of the grid shape that wins over ``labels``: 0 nothing, 1 to 254 a structure,
        255 background.
    ignore
        A value of ``labels`` that means "not labelled"; so does NaN.
    newer
        Regions of the grid, start and stop along each axis, that were painted in since the model
        that a training goes on from was shown: it answers them before its first step.

    Raises
    ------
    UserError
        The shapes of image and labels differ, no kind is given or one that there is not, or an
        array cannot have these axes.
    """

    image: Stack
    labels: Any
    kind: LabelKind
    corrections: Any | None
    ignore: int | None
    newer: tuple[tuple[slice, ...], ...]

    def __init__(
        self,
        image: Any,
        labels: Any,
        kind: LabelKind | str | None = None,
        corrections: Any | None = None,
        ignore: int | None = None,
        newer: tuple[tuple[slice, ...], ...] = (),
        *,
        axes: str | None = None,
    ) -> None:
        put = partial(object.__setattr__, self)
        put("kind", LabelKind.of(kind))
        put("image", image if isinstance(image, Stack) else Stack.from_array(image, axes))
        put("labels", self._on_grid(labels))
        put("corrections", None if corrections is None else self._on_grid(corrections))
        put("ignore", ignore)
        put("newer", newer)

    def _on_grid(self, array: Any) -> Any:
        if not same_but_singletons(array.shape, self.image.grid_shape):
            raise UserError(
                f"{self.image.name} has the shape {self.image.grid_shape} "
                f"({self.image.grid_axes}), but its labels have {tuple(array.shape)}; "
                "choose labels of the same image, or make a new annotation layer for it."
            )
        return on_grid(array, self.image.grid_shape)

    def values(self, *, looks: bool = True) -> LabelValues:
        """What the labels hold, read a plane at a time; see `read_values`.

        Raises
        ------
        UserError
            The values cannot be of this kind.
        """
        planes = planes_with(self.labels) if self.kind is LabelKind.STROKES else None
        name, image = f"The labels of {self.image.name}", self.image
        return read_values(self.labels, self.kind, name, self.ignore, planes, image, looks=looks)


def values_of(pairs: Sequence[Pair], *, looks: bool = True) -> list[LabelValues]:
    """What the labels of several pairs hold; a dozen of them are looked at.

    Raises
    ------
    UserError
        Values cannot be of the kind that was said, or contradict one another.
    """
    looked = set(np.linspace(0, len(pairs) - 1, MOST_LOOKED).astype(int).tolist() if looks else ())
    found, masks = [], set[int]()
    for number, pair in enumerate(pairs):
        values = pair.values(looks=number in looked)
        found.append(values)
        if pair.kind is LabelKind.FULL:
            masks |= values.counts.keys()
            check_together(masks)
    return found


class TrainingData:
    """All that a training reads: classes, normalisation, and samples near labels.

    Parameters
    ----------
    pairs
        Annotated images with the same number of channels.
    dims
        2 for planes, 3 for volumes.
    share
        Share of the blocks that validate.
    structures
        Names and colours of known structures.
    seed
        Seed of what is drawn.
    classes, normalization
        Those of a model that is trained on; None finds them.
    rule
        How to find the normalisation; see `Normalization.choose`.
    known
        The classes of a model that training goes on from. It keeps those that nothing is labelled
        of, where labels are strokes or of a single class.

    Attributes
    ----------
    notes
        What people should know of the labels, in sentences.
    unlabelled
        Numbers of the classes that the model alone knows.

    Raises
    ------
    TrainingError
        Nothing is labelled, only one class is, or the images have different channels.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        dims: int,
        share: float,
        *,
        structures: Sequence[Structure] = (),
        seed: int = 0,
        classes: Classes | None = None,
        normalization: Normalization | None = None,
        rule: str = "auto",
        known: Classes | None = None,
    ) -> None:
        if not pairs:
            raise TrainingError("There is no image with labels to train on; choose or paint some.")
        self.pairs, self.dims, self.share = tuple(pairs), dims, share
        _check_channels(pairs, dims)
        values = list(self._read_values(looks=classes is None))  # not again for newer ones
        self.notes = notes_of(values)
        found = Classes.find([(v.counts, v.kind) for v in values], structures)
        self._known = known
        kept = known if known is not None and self._leaves_out(found, known) else None
        self.classes = (classes or kept or found).renamed(structures)
        _check_classes(found, self.classes, self.pairs, kept)
        self.unlabelled = tuple(n for n in self.classes.numbers if n not in found.numbers)
        self.fingerprints = {id(p.image): p.image.fingerprint() for p in pairs}
        self.normalization = normalization or Normalization.choose([p.image for p in pairs], rule)
        self._scalings = {id(p.image): self.normalization.for_stack(p.image)[0] for p in pairs}
        self.planes = self._read_planes(share)
        self.validated = self._enough_to_validate()
        if not self.validated:  # everything trains, what was in guard bands too
            self.planes = self._read_planes(0.0)
        self._scored = self._choose_blocks()
        rng = np.random.default_rng(seed)
        for plane in self.planes:
            plane.index_anchors(len(self.classes.numbers), rng)
        self.counts = sum((p.counts for p in self.planes), np.zeros(1, np.int64))
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cached_bytes = 0

    # -- labels ------------------------------------------------------------------------------------

    def _read_values(self, *, looks: bool) -> Iterator[LabelValues]:
        """What every labels array holds, checked."""
        yield from values_of(self.pairs, looks=looks)
        for pair in self.pairs:
            if pair.corrections is not None:
                planes = planes_with(pair.corrections)
                name = f"The corrections of {pair.image.name}"
                yield read_values(pair.corrections, LabelKind.STROKES, name, planes=planes)

    def _read_planes(self, share: float) -> list[Plane]:
        return [plane for pair in self.pairs for plane in self._planes_of(pair, share)]

    def _planes_of(self, pair: Pair, share: float) -> Iterator[Plane]:
        spacing = pair.image.spatial_spacing(self.dims)
        fingerprint = self.fingerprints[id(pair.image)]
        for index in self._labelled_planes(pair):
            target = self.classes.encode(pair.labels[index], pair.kind, pair.ignore)
            if pair.corrections is not None:
                own = self.classes.encode(pair.corrections[index], LabelKind.STROKES)
                target = np.where(own == IGNORE, target, own)
            if (target != IGNORE).any():
                # neighbouring planes look alike, so a cell is on the same side in all of them
                yield Plane(pair.image, index, *split(target, fingerprint, spacing, share))

    def _labelled_planes(self, pair: Pair) -> Iterable[tuple[int, ...]]:
        """Indices of the planes, or volumes, that may be labelled."""
        if pair.kind is not LabelKind.STROKES:
            return pair.image.planes(self.dims)
        leading = len(pair.image.leading_shape(self.dims))
        arrays = [a for a in (pair.labels, pair.corrections) if a is not None]
        return sorted({plane[:leading] for array in arrays for plane in planes_with(array)})

    def _enough_to_validate(self) -> bool:
        numbers = self.classes.numbers
        labelled = [k for k, number in enumerate(numbers) if number not in self.unlabelled]
        counts = np.zeros((2, len(numbers)), np.int64)
        for plane in self.planes:
            counts[0] += count_classes(plane.validate, len(numbers))
            counts[1] += count_classes(plane.train, len(numbers))
        blocks = sum(len(p.blocks) for p in self.planes)
        enough = len(labelled) > 1 and counts[:, labelled].min() >= FEWEST_VOXELS
        return bool(enough and blocks >= FEWEST_BLOCKS)

    def _leaves_out(self, found: Classes, known: Classes) -> bool:
        """Whether labels are of some of a model's classes and say nothing of the others."""
        numbers = set(found.numbers)
        return bool(
            numbers < set(known.numbers) and numbers and (self.has_strokes or len(numbers) == 1)
        )

    @property
    def has_strokes(self) -> bool:
        """Whether anything is painted by hand, and not only given as full masks."""
        return any(p.kind is LabelKind.STROKES or p.corrections is not None for p in self.pairs)

    @property
    def train_voxels(self) -> int:
        """Labelled voxels that train."""
        return int(self.counts.sum())

    @property
    def validation_voxels(self) -> int:
        """Labelled voxels in the blocks that are scored."""
        return sum(block.labelled for _, block in self._scored)

    def validation_blocks(self) -> list[tuple[Plane, Block]]:
        """The blocks that are scored: some spread evenly, and the best of each class."""
        return self._scored

    def _choose_blocks(self) -> list[tuple[Plane, Block]]:
        blocks = [(p, b) for p in self.planes for b in p.blocks]
        voxels = max((p.validate[b.region].size for p, b in blocks), default=1)
        most = max(8, min(MOST_BLOCKS, MOST_SCORED // voxels))
        if len(blocks) <= most:
            return blocks
        chosen = set(np.linspace(0, len(blocks) - 1, most).round().astype(int).tolist())
        for number in range(len(self.classes.numbers)):  # a rare one must not be missed
            found = [np.count_nonzero(p.validate[b.region] == number) for p, b in blocks]
            chosen.add(int(np.argmax(found)))
        return [blocks[i] for i in sorted(chosen)]

    # -- images ------------------------------------------------------------------------------------

    def read(self, plane: Plane, region: tuple[slice, ...]) -> np.ndarray:
        """Normalised float32 (channels, *region); planes are kept in memory up to a limit."""
        whole = self._cache.get(id(plane))
        if whole is None:
            stack = plane.stack
            normalization = self._scalings[id(stack)]
            size = 4 * stack.n_channels * math.prod(stack.spatial_shape(self.dims))
            if size > CACHE_BYTES:
                return normalization.apply(stack.read(plane.index, region))
            whole = normalization.apply(stack.read(plane.index, stack.whole(self.dims)))
            self._cache[id(plane)] = whole
            self._cached_bytes += size
            while self._cached_bytes > CACHE_BYTES:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        else:
            self._cache.move_to_end(id(plane))
        return whole[(slice(None), *region)]

    def draw(
        self, size: tuple[int, ...], rng: np.random.Generator, core: tuple[int, ...] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw a sample around a labelled voxel; every class is drawn as often as the others.

        Parameters
        ----------
        size
            Voxels along each spatial axis.
        rng
            Where the randomness comes from.
        core
            Size of the sample's middle that is trained on, the default is all of it. The labelled
            voxel lies in it, and it lies inside the image where that is large enough.

        Returns
        -------
        image
            (channels, *size) float32; beyond the image it is mirrored.
        target
            (*size,) uint8 class indices, `IGNORE` where nothing is labelled or beyond the image.
        """
        return self.cut(*self.pick(rng), size, rng, core)

    def pick(self, rng: np.random.Generator) -> tuple[Plane, int]:
        """Pick a labelled voxel, of every class as often: its plane and flat index."""
        number = int(rng.choice(np.flatnonzero(self.counts)))
        weights = np.array([p.counts[number] for p in self.planes], float)
        plane = self.planes[int(rng.choice(len(self.planes), p=weights / weights.sum()))]
        return plane, int(rng.choice(plane.anchors[number]))

    def cut(
        self,
        plane: Plane,
        anchor: int,
        size: tuple[int, ...],
        rng: np.random.Generator,
        core: tuple[int, ...] | None = None,
        labels: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cut a sample around the voxel of that flat index; see `draw`.

        The target is cut from ``labels``, an array of the plane's shape, where these are given.
        """
        labels = plane.train if labels is None else labels
        shape = labels.shape
        center = np.unravel_index(anchor, shape)
        region, pads = [], []
        for c, wanted, inner, there in zip(center, size, core or size, shape, strict=True):
            start = int(c) - int(rng.integers(inner // 4, inner - inner // 4))
            start = min(max(start, min(0, there - inner)), max(0, there - inner))
            start -= (wanted - inner) // 2
            low, high = max(0, start), min(there, start + wanted)
            region.append(slice(low, high))
            pads.append((low - start, start + wanted - high))
        where = tuple(region)
        image, target = self.read(plane, where), labels[where]
        if any(p != (0, 0) for p in pads):
            image = np.pad(image, [(0, 0), *pads], mode="symmetric")
            target = np.pad(target, pads, constant_values=IGNORE)
        return image, target

    def labelled_regions(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pieces of the images around what is labelled for training, a megavoxel at most in all.

        Yields
        ------
        image
            (channels, *region) float32, normalised.
        target
            (*region,) uint8 class indices, `IGNORE` where nothing is labelled for training.
        """
        pieces = [(plane, region) for plane in self.planes for region in _pieces(plane.train.shape)]
        order = [pieces[i] for i in np.random.default_rng(0).permutation(len(pieces))]
        first = [self._piece_with(number, order) for number in np.argsort(self.counts, stable=True)]
        left, used = MOST_FITTED, 0
        for i in dict.fromkeys([*(i for i in first if i is not None), *range(len(order))]):
            plane, region = order[i]
            target = plane.train[region]
            if (i in first or left > 0) and used < MOST_PIECES and (target != IGNORE).any():
                yield self.read(plane, region), target
                left -= target.size
                used += 1

    def _piece_with(self, number: int, pieces: list[tuple[Plane, tuple[slice, ...]]]) -> int | None:
        """The first of the pieces that holds a class."""
        there = (i for i, (p, r) in enumerate(pieces) if (p.train[r] == number).any())
        return next(there, None)

    def newer_than(self, before: TrainingData) -> Places:
        """What trains and was not labelled so in earlier data of the same images."""
        known = {before.place_of(plane): plane.train for plane in before.planes}
        found = []
        for plane in self.planes:
            newer = plane.train != known.get(self.place_of(plane), IGNORE)
            found.append((plane, np.flatnonzero(newer & (plane.train != IGNORE))))
        return [(plane, places) for plane, places in found if len(places)]

    def newer_places(self) -> Places:
        """What trains in the regions that the pairs call newer."""
        newer = {id(pair.image): pair.newer for pair in self.pairs}
        found = []
        for plane in self.planes:
            marked = np.zeros(plane.train.shape, bool)
            for region in newer[id(plane.stack)]:
                at = zip(plane.index, region[: -self.dims], strict=True)
                if all(s.start <= i < s.stop for i, s in at):
                    marked[region[-self.dims :]] = True
            found.append((plane, np.flatnonzero(marked & (plane.train != IGNORE))))
        return [(plane, places) for plane, places in found if len(places)]

    def place_of(self, plane: Plane) -> tuple[str, tuple[int, ...]]:
        """Which plane of which image this is, also in other data of the same images."""
        return self.fingerprints[id(plane.stack)], plane.index

    def renewed(self, pairs: Sequence[Pair]) -> Self:
        """The same for newer annotations of the same classes."""
        return type(self)(
            pairs,
            self.dims,
            self.share,
            structures=self.classes.structures,
            classes=self.classes,
            normalization=self.normalization,
            known=self._known,
        )


def _pieces(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Regions of at most `PIECE_EDGE` voxels along each axis that cover a shape."""
    spans = []
    for size, edge in zip(shape, PIECE_EDGE[len(shape)], strict=True):
        step = math.ceil(size / math.ceil(size / edge))
        spans.append([slice(at, min(at + step, size)) for at in range(0, size, step)])
    return list(product(*spans))


def _check_channels(pairs: Sequence[Pair], dims: int) -> None:
    first = pairs[0].image
    for pair in pairs:
        pair.image.check_dims(dims)
        if pair.image.n_channels != first.n_channels:
            raise TrainingError(
                f"{first.name} has {first.n_channels} channel(s) and {pair.image.name} has "
                f"{pair.image.n_channels}; train on images with the same channels."
            )


def _only(name: str, pairs: Sequence[Pair]) -> str:
    """Why labels of a single class are not enough, and what to do."""
    ignored = [pair.ignore for pair in pairs if pair.ignore is not None]
    if any(pair.kind is LabelKind.STROKES or pair.corrections is not None for pair in pairs):
        other = "a structure" if name == "background" else "the background (brush 255)"
        return f"Only {name} is labelled; paint some strokes on {other} too."
    if name == "background":
        return (
            "Only background is labelled: every value is 0; give masks that hold a structure too."
        )
    if 0 in ignored:
        return (
            f"Only {name} is labelled, since 0 is ignored; leave '--ignore 0' out if 0 is the "
            "background, or give labels of it."
        )
    if ignored and ignored[0] < 0:
        return (
            f"Only {name} is labelled, since {ignored[0]} is ignored and nothing is 0; if it is "
            f"the background, give '--threshold 0' instead of '--ignore {ignored[0]}'."
        )
    return f"Only {name} is labelled: no value is 0, which is background; give masks that hold it."


def _check_classes(
    found: Classes, wanted: Classes, pairs: Sequence[Pair], known: Classes | None
) -> None:
    if not found.numbers:
        raise TrainingError(
            "Nothing is labelled yet; paint a few strokes on a structure and, with the background "
            "brush (255), on the background."
        )
    if len(found.numbers) == 1 and known is None:
        raise TrainingError(_only(found.names[0], pairs))
    if unknown := sorted(set(found.numbers) - set(wanted.numbers)):
        raise TrainingError(
            f"The labels hold {_numbers(unknown)}, but this training began with "
            f"{_numbers(wanted.numbers)}; train again to learn it too."
        )
    kept = known.numbers if known is not None else ()
    if missing := sorted(set(wanted.numbers) - set(found.numbers) - set(kept)):
        raise TrainingError(
            f"This training began with {_numbers(wanted.numbers)}, but nothing is labelled as "
            f"{_numbers(missing)} any more; paint some of it, or train again."
        )


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join("background" if n == 0 else str(n) for n in numbers)
