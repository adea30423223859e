"""Refit of the last layer to newer strokes, which shows them in the mask at once.

The features stay as they are, so that the problem is convex. Distillation of the shown mask keeps
it as it is away from the strokes (learning without forgetting, Li and Hoiem 2016,
https://arxiv.org/abs/1606.09282).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional

from napari_unetseg.core.labels import IGNORE_INDEX
from napari_unetseg.training.batch_sampler import Focus

if TYPE_CHECKING:
    from napari_unetseg.data.validation_split import LabelledPlane, VoxelIndex, VoxelIndices
    from napari_unetseg.training.trainer import Trainer

STROKE_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.85)
"""Weights of newer strokes among all labels; the least that suffices is kept."""
DISTILLATION_WEIGHT = 3.0
"""Weight of the shown mask where nothing is labelled, relative to the labels."""
KEEP_AWAY = 16
"""Voxels in Y and X around newer strokes within which the shown mask is not distilled."""
NEWER_CROPS, MOST_NEWER_CROPS = 2, 6
"""Crops around newer strokes, at least, and at most where these lie far apart."""
LABEL_CROPS, PLANE_CROPS = 4, 10
"""Crops around any labels, and planes that are cropped anywhere: of each image that was painted on
the mask is to stay.
"""
MOST_ANCHORS = 200
"""Voxels of newer strokes among which the crops' are chosen."""
MARGIN = 24
"""Voxels that a crop around newer strokes is larger than a patch, on either side."""
MOST_NEWER, MOST_LABELLED, MOST_DISTILLED = 2_000, 3_000, 12_000
"""Most voxels of each kind in the fit."""
ITERATIONS = 15
"""L-BFGS iterations for each weight, from the solution of the one before."""
ENOUGH = 0.55
"""Fraction of the wrong voxels of newer strokes that the refit makes right."""
TOLERATED_ERROR = 0.1
"""Fraction of newer voxels that may be wrong without a refit, since stroke rims are imprecise."""
STREAM = 2**20
"""Separates the random numbers of refits from those of steps."""


@dataclass(slots=True)
class _Voxels:
    """Features (V, F) of voxels, and what they should be: classes (V,) or probabilities (V, K)."""

    features: Tensor
    wanted: Tensor

    def thinned(self, most: int, rng: np.random.Generator) -> _Voxels:
        kept = torch.from_numpy(rng.permutation(len(self.features))[:most])
        kept = kept.to(self.features.device)
        return _Voxels(self.features[kept], self.wanted[kept])


class HeadRefit:
    """The convex problem of a refit.

    Parameters
    ----------
    trainer
        Provides data and the EMA network; `solve` changes nothing of it.
    newer
        Newly labelled voxels, at least one.
    number
        Number of this refit in the training, for its random numbers.
    between
        Called between pieces of work; may raise to end them.
    """

    def __init__(
        self,
        trainer: Trainer,
        newer: VoxelIndices,
        number: int,
        between: Callable[[], object] = lambda: None,
    ) -> None:
        self.trainer, self._focus, self._between = trainer, Focus(newer), between
        self.head = trainer.ema_network.head
        self._seed = [trainer.settings.seed, STREAM, number]
        self._newer = {id(plane): _marked(plane, indices) for plane, indices in newer}
        self._gather()

    # -- voxels ------------------------------------------------------------------------------------

    @torch.no_grad()
    def _gather(self) -> None:
        """Compute the features of crops around newer strokes and elsewhere."""
        rng = np.random.default_rng(self._seed)
        network = self.trainer.ema_network.folded()
        strokes, labelled, distilled = [], [], []
        for plane, anchor, margin in self._places(rng):
            self._between()
            image, *masks, truth = self._crop(plane, anchor, margin)
            features = network.features(image[None])[0].float().movedim(0, -1)
            newer, earlier, free = masks
            strokes.append(_Voxels(features[newer], truth[newer].long()))
            labelled.append(_Voxels(features[earlier], truth[earlier].long()))
            soft = _Voxels(features[free], _applied(features[free], self.start()).softmax(-1))
            distilled.append(soft.thinned(MOST_DISTILLED // PLANE_CROPS, rng))
        self.strokes = _joined(strokes).thinned(MOST_NEWER, rng)
        self.labelled = _joined(labelled).thinned(MOST_LABELLED, rng)
        self.distilled = _joined(distilled).thinned(MOST_DISTILLED, rng)

    def _places(self, rng: np.random.Generator) -> list[tuple[LabelledPlane, int, int]]:
        """Plane, anchor and margin of crops: on newer strokes, on any labels, and anywhere."""
        data = self.trainer.data
        anywhere = rng.permutation(len(data.planes))[:PLANE_CROPS].tolist()
        anywhere += rng.integers(len(data.planes), size=PLANE_CROPS - len(anywhere)).tolist()
        planes = [data.planes[number] for number in anywhere]
        return [
            *((plane, anchor, MARGIN) for plane, anchor in self._spread()),
            *((*data.sample_anchor(rng), 0) for _ in range(LABEL_CROPS)),
            *((plane, int(rng.integers(plane.train.size)), 0) for plane in planes),
        ]

    def _spread(self) -> list[VoxelIndex]:
        """Voxels of the newer strokes, each as far as possible from those before."""
        numbers = np.linspace(0, len(self._focus) - 1, MOST_ANCHORS).astype(int).tolist()
        found = [self._focus[number] for number in dict.fromkeys(numbers)]
        planes = np.array([id(plane) for plane, _ in found])
        at = np.array([np.unravel_index(flat, plane.train.shape) for plane, flat in found])
        chosen: list[VoxelIndex] = []
        away = np.full(len(found), np.inf)
        while len(chosen) < MOST_NEWER_CROPS:
            far = int(away.argmax())
            if len(chosen) >= NEWER_CROPS and away[far] <= min(self.trainer.patch) / 2:
                break
            chosen.append(found[far])
            steps = np.abs(at - at[far]).max(1)
            away = np.minimum(away, np.where(planes == planes[far], steps, np.inf))
        return chosen

    def _crop(self, plane: LabelledPlane, anchor: int, margin: int) -> tuple[Tensor, ...]:
        """An image; where newer, earlier and no labels are, without the margin; the labels.

        It is cut as in prediction, so that its features are those of the mask: it starts at a
        multiple of the stride, and ends at the image's border.
        """
        trainer, shape = self.trainer, plane.train.shape
        edges = [*trainer.patch[:-2], *(edge + 2 * margin for edge in trainer.patch[-2:])]
        region, inner = [], []
        center = np.unravel_index(anchor, shape)
        for c, edge, size, stride in zip(center, edges, shape, trainer.network.stride, strict=True):
            start = max(0, min(int(c) - edge // 2, size - edge)) // stride * stride
            stop = min(size, start + edge)
            rim = margin if edge > margin else 0
            region.append(slice(start, stop))
            inner.append(slice(rim if start else 0, stop - start - (rim if stop < size else 0)))
        where, inside = tuple(region), np.zeros([r.stop - r.start for r in region], bool)
        inside[tuple(inner)] = True
        truth, newer = plane.train[where], inside & False
        if id(plane) in self._newer:
            newer = self._newer[id(plane)][where]
        known = truth != IGNORE_INDEX
        masks = newer & inside, known & ~newer & inside, ~known & _away_from(newer) & inside
        arrays = (trainer.data.read(plane, where), *masks, truth)
        return tuple(torch.from_numpy(np.ascontiguousarray(a)).to(trainer.device) for a in arrays)

    # -- fit ---------------------------------------------------------------------------------------

    def wrong(self, rows: Tensor | None = None) -> Tensor:
        """Which newer voxels a last layer gets wrong; by default the shown one."""
        logits = _applied(self.strokes.features, self.start() if rows is None else rows)
        return logits.argmax(1) != self.strokes.wanted

    def start(self) -> Tensor:
        """The shown last layer, (outputs, features + 1)."""
        assert self.head.bias is not None
        return torch.cat([self.head.weight.flatten(1), self.head.bias[:, None]], 1).detach().clone()

    def solve(self) -> Tensor | None:
        """The last layer nearest to the shown one that makes enough of the strokes right."""
        wrong = self.wrong()
        if float(wrong.float().mean()) <= TOLERATED_ERROR:
            return None
        rows = self.start()
        for weight in STROKE_WEIGHTS:
            self._between()
            rows = self._fit(rows, weight)
            if float(self.wrong(rows)[wrong].float().mean()) <= 1 - ENOUGH:
                break
        return rows

    def _fit(self, rows: Tensor, weight: float) -> Tensor:
        rows = rows.clone().requires_grad_(True)
        start = self.start()
        optimizer = torch.optim.LBFGS([rows], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = weight * self._error(self.strokes, rows)
            if len(self.labelled.features):
                loss = loss + (1 - weight) * self._error(
                    self.labelled, rows, self.trainer.class_weights
                )
            if len(self.distilled.features):
                logs = _applied(self.distilled.features, rows).log_softmax(1)
                loss = loss - DISTILLATION_WEIGHT * (self.distilled.wanted * logs).sum(1).mean()
            loss = loss + 1e-4 * (rows - start).square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return rows.detach()

    def _error(self, voxels: _Voxels, rows: Tensor, weights: Tensor | None = None) -> Tensor:
        logits = _applied(voxels.features, rows)
        if weights is None:
            return functional.cross_entropy(logits, voxels.wanted)
        return functional.cross_entropy(logits, voxels.wanted, weight=weights)

    def apply(self, rows: Tensor) -> None:
        """Move the last layers of network, EMA and the distilled one by the same difference."""
        trainer, change = self.trainer, rows - self.start()
        networks = [trainer.network, trainer.ema_network]
        if trainer.distillation is not None:
            networks.append(trainer.distillation.network)
        with torch.no_grad():
            for network in networks:
                network.head.weight.add_(change[:, :-1].view_as(network.head.weight))
                if network.head.bias is not None:
                    network.head.bias.add_(change[:, -1])


def _applied(features: Tensor, rows: Tensor) -> Tensor:
    """Logits (V, classes) of features (V, F)."""
    return _two(features @ rows[:, :-1].T + rows[:, -1])


def _marked(plane: LabelledPlane, indices: np.ndarray) -> np.ndarray:
    """Where these voxels are in the plane, of its shape."""
    marked = np.zeros(plane.train.shape, bool)
    marked.reshape(-1)[indices] = True
    return marked


def _away_from(marked: np.ndarray) -> np.ndarray:
    """Voxels farther than `KEEP_AWAY` in Y and X from marked ones."""
    if not marked.any():
        return ~marked
    planes = marked.reshape(-1, *marked.shape[-2:])
    distances = [
        distance_transform_edt(~plane) if plane.any() else np.full(plane.shape, np.inf)
        for plane in planes
    ]
    return np.stack(distances).reshape(marked.shape) > KEEP_AWAY


def _two(logits: Tensor) -> Tensor:
    """Logits of two classes where one output stands for both."""
    return torch.cat([torch.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits


def _joined(parts: list[_Voxels]) -> _Voxels:
    return _Voxels(torch.cat([p.features for p in parts]), torch.cat([p.wanted for p in parts]))
