"""Training dataset: annotated images, classes, normalisation, patch sampling."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, product
from typing import TYPE_CHECKING, Self

import numpy as np

from napari_unetseg.core.errors import TrainingError
from napari_unetseg.core.events import FlatImage
from napari_unetseg.core.image_stack import Normalization
from napari_unetseg.core.label_checks import LabelValues, notes_of
from napari_unetseg.core.labels import IGNORE_INDEX, Classes, LabelKind, Structure
from napari_unetseg.core.object_maps import UNKNOWN
from napari_unetseg.data.annotated_image import values_of
from napari_unetseg.data.dataset_checks import check_channels, check_classes, check_not_flat
from napari_unetseg.data.labelled_planes import ReadPair, matched, read_pairs, same_pixels
from napari_unetseg.data.plane_cache import PlaneCache

if TYPE_CHECKING:
    from napari_unetseg.data.annotated_image import AnnotatedImage
    from napari_unetseg.data.validation_split import (
        LabelledPlane,
        ValidationBlock,
        VoxelIndex,
        VoxelIndices,
    )

FEWEST_VOXELS = 30
"""Labelled voxels of every class that a score needs in validation blocks."""
FEWEST_BLOCKS = 2
"""Validation blocks of every class that a score needs."""
MOST_BLOCKS, MOST_SCORED = 64, 2**21
"""Most validation blocks that are scored, and voxels in them."""
CACHE_BYTES = 2**30
MOST_FITTED = 2**20
"""Most voxels in crops for the linear probe."""
MOST_PIECES = 64
PIECE_EDGE = {2: (640, 640), 3: (32, 128, 128)}


class TrainingDataset:
    """Classes, normalisation and random patches of annotated images.

    Parameters
    ----------
    pairs
        Annotated images with the same number of channels.
    dims
        2 for planes, 3 for volumes.
    fraction
        Fraction of the blocks that validate.
    structures
        Names and colours of known structures.
    seed
        Random seed.
    classes, normalization
        Those of an initial model; None finds them.
    rule
        How to find the normalisation; see `Normalization.choose`.
    known
        Classes of an initial model. Those without labels are kept, where labels are strokes or of a
        single class.
    before, fixed
        See `with_annotations`.

    Attributes
    ----------
    notes
        Sentences about doubtful labels.
    unlabelled
        Numbers of the initial model's classes without labels.

    Raises
    ------
    TrainingError
        Nothing is labelled, only one class is, or the images have different channels.
    """

    def __init__(
        self,
        pairs: Sequence[AnnotatedImage],
        dims: int,
        fraction: float,
        *,
        structures: Sequence[Structure] = (),
        seed: int = 0,
        classes: Classes | None = None,
        normalization: Normalization | None = None,
        rule: str = "auto",
        known: Classes | None = None,
        before: TrainingDataset | None = None,
        fixed: Collection[AnnotatedImage] = (),
    ) -> None:
        if not pairs:
            raise TrainingError("There is no image with labels to train on; choose or paint some.")
        self.pairs, self.dims, self.fraction = tuple(pairs), dims, fraction
        self._seed, self._known = seed, known
        self.planes: list[LabelledPlane] = []
        check_channels(pairs, dims)
        earlier = matched(pairs, before.read_pairs if before else ())
        self.read_pairs: list[ReadPair] = read_pairs(pairs, earlier, fixed)
        values = list(self._read_values(classify=classes is None))  # once a training
        self.notes = notes_of(values)
        finished = any(pair.objects is not None for pair in pairs)
        found = Classes.find([(v.counts, v.kind) for v in values], structures, finished=finished)
        kept = known if known is not None and self._leaves_out(found, known) else None
        of_objects = () if classes else [s for s in found.structures if s.objects]
        self.classes = (classes or kept or found).renamed([*structures, *of_objects])
        check_classes(found, self.classes, self.pairs, kept)
        self.unlabelled = tuple(n for n in self.classes.numbers if n not in found.numbers)
        self.normalization = normalization or Normalization.choose([p.image for p in pairs], rule)
        self._scale(before, earlier)
        self._read_planes(earlier)
        self._scored = self._choose_blocks()
        self.counts = sum((p.counts for p in self.planes), np.zeros(1, np.int64))

    # -- labels ------------------------------------------------------------------------------------

    @property
    def fingerprints(self) -> list[str]:
        """The fingerprint of the image of each pair."""
        return [read.fingerprint for read in self.read_pairs]

    def _read_values(self, *, classify: bool) -> Iterator[LabelValues]:
        yield from values_of(self.read_pairs, classify=classify)
        for read in self.read_pairs:
            if (values := read.corrected_values()) is not None:
                yield values

    def _scale(self, before: TrainingDataset | None, earlier: Sequence[ReadPair | None]) -> None:
        """Normalisation of each image; images of the earlier dataset are not measured again."""
        numbers = {
            old.number: read.number
            for read, old in zip(self.read_pairs, earlier, strict=True)
            if old is not None and same_pixels(read.pair.image, old.pair.image)
        }
        known = {numbers[old]: before._scalings[old] for old in numbers} if before else {}
        self._scalings: list[Normalization] = []
        self._flat: dict[int, FlatImage] = {}
        for number, pair in enumerate(self.pairs):
            if (scaling := known.get(number)) is None:
                scaling, notices = self.normalization.for_stack(pair.image)
                self._flat.update((number, n) for n in notices if isinstance(n, FlatImage))
            self._scalings.append(scaling)
        self._cache = PlaneCache(CACHE_BYTES)
        if before is not None:
            self._cache.take_over(before._cache, numbers)

    def _read_planes(self, earlier: Sequence[ReadPair | None]) -> None:
        """Split the labels; if they are too few to validate, everything trains, guard bands too."""
        how = self.classes, self.dims
        for read, old in zip(self.read_pairs, earlier, strict=True):
            read.read_planes(*how, self.fraction, old)
        self.validated = self._enough_to_validate()
        for read in self.read_pairs:
            read.set_fraction(self.fraction if self.validated else 0.0, *how)
        self.planes = [found.plane for read in self.read_pairs for found in read.planes.values()]
        for plane in self.planes:
            if not plane.anchors:  # seeded by the plane, so that they are reproducible
                key = (self._seed, int(self.fingerprints[plane.pair], 16), *plane.index)
                plane.index_anchors(np.random.default_rng(key))

    def flat_images(self) -> list[FlatImage]:
        """Notices of images that have the same value everywhere.

        Raises
        ------
        TrainingError
            All have.
        """
        flat = [notice for n, notice in self._flat.items() if self._is_flat(n)]
        check_not_flat(flat, len(self.pairs))
        return flat

    def _is_flat(self, number: int) -> bool:
        """Whether each channel of an image has one value in every voxel of the labelled planes."""
        planes = (plane for plane in self.planes if plane.pair == number)
        regions = ((p, region) for p in planes for region in _pieces(p.train.shape))
        pieces = (p.stack.read(p.index, region) for p, region in regions)
        flattened = (piece.reshape(len(piece), -1) for piece in pieces)
        if (first := next(flattened, None)) is None:
            return True
        return all(bool((v == first[:, :1]).all()) for v in chain([first], flattened))

    def _enough_to_validate(self) -> bool:
        numbers = self.classes.numbers
        labelled = [k for k, number in enumerate(numbers) if number not in self.unlabelled]
        counts = np.zeros((2, len(numbers)), np.int64)
        planes = [plane for read in self.read_pairs for plane in read.planes.values()]
        for plane in planes:
            counts += plane.validate, plane.train
        blocks = sum(plane.blocks for plane in planes)
        enough = len(labelled) > 1 and counts[:, labelled].min() >= FEWEST_VOXELS
        return bool(enough and blocks >= FEWEST_BLOCKS)

    def _leaves_out(self, found: Classes, known: Classes) -> bool:
        """Whether labels are of some of a model's classes and cannot tell the others' absence."""
        numbers = set(found.numbers)
        return bool(
            numbers < set(known.numbers) and numbers and (self.has_strokes or len(numbers) == 1)
        )

    @property
    def has_objects(self) -> bool:
        """Whether whole objects are known, so that object maps can be learned."""
        return any(plane.objects is not None and plane.objects.any() for plane in self.planes)

    @property
    def has_strokes(self) -> bool:
        """Whether any labels are strokes."""
        return any(p.kind is LabelKind.STROKES or p.corrections is not None for p in self.pairs)

    @property
    def train_voxels(self) -> int:
        """Labelled voxels that train."""
        return int(self.counts.sum())

    @property
    def validation_voxels(self) -> int:
        """Labelled voxels in the scored blocks."""
        return sum(block.labelled for _, block in self._scored)

    def validation_blocks(self) -> list[tuple[LabelledPlane, ValidationBlock]]:
        """The scored blocks: evenly spaced ones, and the best of each class."""
        return self._scored

    def _choose_blocks(self) -> list[tuple[LabelledPlane, ValidationBlock]]:
        blocks = [(p, b) for p in self.planes for b in p.blocks]
        voxels = max((p.validate[b.region].size for p, b in blocks), default=1)
        most = max(8, min(MOST_BLOCKS, MOST_SCORED // voxels))
        if len(blocks) <= most:
            return blocks
        chosen = set(np.linspace(0, len(blocks) - 1, most).round().astype(int).tolist())
        for number in range(len(self.classes.numbers)):  # for rare classes
            found = [np.count_nonzero(p.validate[b.region] == number) for p, b in blocks]
            chosen.add(int(np.argmax(found)))
        return [blocks[i] for i in sorted(chosen)]

    # -- images ------------------------------------------------------------------------------------

    def read(self, plane: LabelledPlane, region: tuple[slice, ...]) -> np.ndarray:
        """Normalised float32 (channels, *region); recently read planes are cached."""
        stack, scaling = plane.stack, self._scalings[plane.pair]
        if 4 * stack.n_channels * math.prod(stack.spatial_shape(self.dims)) > CACHE_BYTES:
            return scaling.apply(stack.read(plane.index, region))

        def whole() -> np.ndarray:
            return scaling.apply(stack.read(plane.index, stack.whole(self.dims)))

        return self._cache.get((plane.pair, plane.index), whole)[(slice(None), *region)]

    def sample_anchor(self, rng: np.random.Generator) -> VoxelIndex:
        """A random labelled voxel, with equally frequent classes: its plane and flat index."""
        number = int(rng.choice(np.flatnonzero(self.counts)))
        weights = np.array([p.counts[number] for p in self.planes], float)
        plane = self.planes[int(rng.choice(len(self.planes), p=weights / weights.sum()))]
        return plane, int(rng.choice(plane.anchors[number]))

    def crop_patch(
        self,
        plane: LabelledPlane,
        anchor: int,
        size: tuple[int, ...],
        rng: np.random.Generator,
        core: tuple[int, ...] | None = None,
        labels: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Crop the patch around the voxel of that flat index.

        Parameters
        ----------
        plane, anchor
            A labelled voxel, such as `sample_anchor` draws.
        size
            Voxels along each spatial axis.
        rng
            Where the randomness comes from.
        core
            Size of the patch's middle that is trained on, the default is all of it. The labelled
            voxel lies in it, and it lies inside the image where that is large enough.
        labels
            Class indices of the plane's shape that the target is cropped from instead.

        Object maps follow the class indices where the classes have objects.

        Returns
        -------
        image
            (channels, *size) float32; beyond the image it is mirrored.
        target
            (*size,) uint8 class indices, `IGNORE_INDEX` where nothing is labelled and beyond the
            image. With objects (3, *size): class indices, and the encoded object maps.
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
        if self.classes.objects:
            target = np.stack([target, *_maps(plane, where)])
            pads = [(0, 0), *pads]
        if any(p != (0, 0) for p in pads):
            image = np.pad(image, [(0, 0), *pads[-self.dims :]], mode="symmetric")
            target = np.pad(target, pads, constant_values=IGNORE_INDEX)
        return image, target

    def labelled_regions(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Crops around training labels, a megavoxel at most in all.

        Yields
        ------
        image
            (channels, *region) float32, normalised.
        target
            (*region,) uint8 class indices, `IGNORE_INDEX` where nothing is labelled for training.
        """
        for plane, region in self._labelled_places():
            yield self.read(plane, region), plane.train[region]

    def object_regions(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As `labelled_regions`, with object maps (2, *region), of regions that hold known ones."""
        for plane, region in self._labelled_places():
            maps = _maps(plane, region)
            if (maps != UNKNOWN).any():
                yield self.read(plane, region), maps

    def object_windows(self, most: int) -> Iterator[tuple[LabelledPlane, tuple[slice, ...]]]:
        """Planes and regions with known objects, held out or not, about ``most`` voxels in all.

        Those with the most objects come first.
        """
        places = [
            (len(np.unique(plane.objects[region])) - 1, plane, region)
            for plane in self.planes
            if plane.objects is not None
            for region in _pieces(plane.train.shape)
        ]
        left = most
        for objects, plane, region in sorted(places, key=lambda place: -place[0]):
            if left > 0 and objects > 0:
                yield plane, region
                left -= plane.train[region].size

    def _labelled_places(self) -> Iterator[tuple[LabelledPlane, tuple[slice, ...]]]:
        pieces = [(plane, region) for plane in self.planes for region in _pieces(plane.train.shape)]
        order = [pieces[i] for i in np.random.default_rng(0).permutation(len(pieces))]
        first = [self._crop_with(number, order) for number in np.argsort(self.counts, stable=True)]
        left, used = MOST_FITTED, 0
        for i in dict.fromkeys([*(i for i in first if i is not None), *range(len(order))]):
            plane, region = order[i]
            target = plane.train[region]
            if (i in first or left > 0) and used < MOST_PIECES and (target != IGNORE_INDEX).any():
                yield plane, region
                left -= target.size
                used += 1

    def _crop_with(
        self, number: int, pieces: list[tuple[LabelledPlane, tuple[slice, ...]]]
    ) -> int | None:
        """The first of the crops that holds a class."""
        there = (i for i, (p, r) in enumerate(pieces) if (p.train[r] == number).any())
        return next(there, None)

    def labels_added_since(self, before: TrainingDataset) -> VoxelIndices:
        """Training labels that earlier data of the same images lacks."""
        earlier, found = matched(self.pairs, before.read_pairs), []
        for plane in self.planes:
            old = earlier[plane.pair]
            known = old.planes.get(plane.index) if old is not None else None
            if known is not None and known.plane.train is plane.train:
                continue
            newer = plane.train != (IGNORE_INDEX if known is None else known.plane.train)
            found.append((plane, np.flatnonzero(newer & (plane.train != IGNORE_INDEX))))
        return [(plane, voxels) for plane, voxels in found if len(voxels)]

    def newer_voxels(self) -> VoxelIndices:
        """Training labels in the pairs' ``newer`` regions."""
        found = []
        for plane in self.planes:
            marked = np.zeros(plane.train.shape, bool)
            for region in self.pairs[plane.pair].newer:
                at = zip(plane.index, region[: -self.dims], strict=True)
                if all(s.start <= i < s.stop for i, s in at):
                    marked[region[-self.dims :]] = True
            found.append((plane, np.flatnonzero(marked & (plane.train != IGNORE_INDEX))))
        return [(plane, voxels) for plane, voxels in found if len(voxels)]

    def place_of(self, plane: LabelledPlane) -> tuple[int, tuple[int, ...]]:
        """The pair and index of a plane."""
        return plane.pair, plane.index

    def with_annotations(
        self, pairs: Sequence[AnnotatedImage], fixed: Collection[AnnotatedImage] = ()
    ) -> Self:
        """The same dataset with newer annotations of the same classes.

        Only planes with changed labels are read again; labels of the pairs ``fixed`` are known to
        be unchanged.
        """
        return type(self)(
            pairs,
            self.dims,
            self.fraction,
            structures=self.classes.structures,
            seed=self._seed,
            classes=self.classes,
            normalization=self.normalization,
            known=self._known,
            before=self,
            fixed=fixed,
        )


def _maps(plane: LabelledPlane, region: tuple[slice, ...]) -> np.ndarray:
    """The encoded object maps of a region."""
    if plane.maps is not None:
        return plane.maps[(slice(None), *region)]
    return np.full((2, *plane.train[region].shape), UNKNOWN, np.uint8)


def _pieces(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Regions of at most `PIECE_EDGE` voxels along each axis that cover a shape."""
    spans = []
    for size, edge in zip(shape, PIECE_EDGE[len(shape)], strict=True):
        step = math.ceil(size / math.ceil(size / edge))
        spans.append([slice(at, min(at + step, size)) for at in range(0, size, step)])
    return list(product(*spans))
