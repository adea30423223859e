"""Refit of the last layer to newer strokes, which shows them in the mask at once.

The features stay as they are, so that the problem is convex. Distillation of the shown mask keeps
it as it is away from the strokes (learning without forgetting, Li and Hoiem 2016,
https://arxiv.org/abs/1606.09282).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from napari_unetseg.core.labels import IGNORE_INDEX
from napari_unetseg.models.unet import probabilities
from napari_unetseg.training.batch_sampler import Focus
from napari_unetseg.training.distillation import around

if TYPE_CHECKING:
    from napari_unetseg.data.validation_split import LabelledPlane, VoxelIndex, VoxelIndices
    from napari_unetseg.training.trainer import Trainer

STROKE_WEIGHTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.85)
"""Weights of newer strokes among all labels; the least that suffices is kept."""
DISTILLATION_WEIGHT = 3.0
"""Weight of the shown mask where nothing is labelled, relative to the labels."""
KEEP_AWAY = 16
"""Voxels in Y and X around newer strokes within which the shown mask is not distilled."""
MOST_NEWER_CROPS = 6
"""Most crops around newer strokes, where these lie far apart."""
LABEL_CROPS, PLANE_CROPS = 4, 10
"""Crops around any labels, and planes that are cropped anywhere: of each image that was painted on
the mask is to stay.
"""
MOST_ANCHORS = 200
"""Voxels of newer strokes among which the centres of their crops are chosen."""
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


class _Voxels(NamedTuple):
    """Features (V, F) of voxels, and what they should be: classes (V,) or probabilities (V, K)."""

    features: Tensor
    wanted: Tensor


class HeadRefit:
    """The convex problem of a refit.

    Parameters
    ----------
    trainer
        Provides data and the EMA network; an interrupted `solve` changes nothing of it.
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
        between: Callable[[], object],
    ) -> None:
        self.trainer, self._focus, self._between = trainer, Focus(newer), between
        self.head = trainer.ema_network.head
        self._seed = [trainer.settings.seed, STREAM, number]
        self._newer = {id(plane): np.zeros(plane.train.shape, bool) for plane, _ in newer}
        for plane, indices in newer:
            self._newer[id(plane)].reshape(-1)[indices] = True
        assert self.head.bias is not None
        rows = torch.cat([self.head.weight.flatten(1), self.head.bias[:, None]], 1)
        self.start = rows.detach().clone()
        """The shown last layer, (outputs, features + 1)."""
        self._gather()

    # -- voxels ------------------------------------------------------------------------------------

    @torch.no_grad()
    def _gather(self) -> None:
        """Compute the features of crops around newer strokes and elsewhere."""
        seen, rng = list[Tensor](), np.random.default_rng(self._seed)
        network = self.trainer.ema_network.folded()
        network.head.register_forward_hook(lambda _m, inputs, _out: seen.append(inputs[0]))
        strokes, labelled, distilled = [], [], []
        for plane, anchor, margin in self._places(rng):
            self._between()
            image, newer, earlier, free, truth = self._crop(plane, anchor, margin)
            seen.clear()
            shown = probabilities(network(image[None])[0].float()).movedim(0, -1)
            features = seen[0][0].float().movedim(0, -1)
            strokes.append(_Voxels(features[newer], truth[newer].long()))
            labelled.append(_Voxels(features[earlier], truth[earlier].long()))
            soft = [_Voxels(features[free], shown[free])]
            distilled.append(_drawn(soft, MOST_DISTILLED // PLANE_CROPS, rng))
        self.strokes = _drawn(strokes, MOST_NEWER, rng)
        self.labelled = _drawn(labelled, MOST_LABELLED, rng)
        self.distilled = _drawn(distilled, MOST_DISTILLED, rng)

    def _places(self, rng: np.random.Generator) -> list[tuple[LabelledPlane, int, int]]:
        """Plane, anchor and margin of crops: on newer strokes, on any labels, and anywhere."""
        data = self.trainer.data
        planes = [data.planes[n] for n in np.resize(rng.permutation(len(data.planes)), PLANE_CROPS)]
        return [
            *((plane, anchor, MARGIN) for plane, anchor in self._spread(rng)),
            *((*data.sample_anchor(rng), 0) for _ in range(LABEL_CROPS)),
            *((plane, int(rng.integers(plane.train.size)), 0) for plane in planes),
        ]

    def _spread(self, rng: np.random.Generator) -> list[VoxelIndex]:
        """Voxels of the newer strokes, half a patch or more from each other."""
        chosen: list[tuple[LabelledPlane, int, np.ndarray]] = []
        for number in rng.permutation(len(self._focus))[:MOST_ANCHORS].tolist():
            plane, flat = self._focus[number]
            at = np.array(np.unravel_index(flat, plane.train.shape))
            others = [there for other, _, there in chosen if other is plane]
            if all(np.abs(at - there).max() > min(self.trainer.patch) / 2 for there in others):
                chosen.append((plane, flat, at))
        return [(plane, flat) for plane, flat, _ in chosen[:MOST_NEWER_CROPS]]

    def _crop(self, plane: LabelledPlane, anchor: int, margin: int) -> tuple[Tensor, ...]:
        """An image; where newer, earlier and no labels are; the labels.

        It is cut as in prediction, so that its features are those of the mask: it starts at a
        multiple of the stride, and ends at the image's border.
        """
        trainer, shape, region = self.trainer, plane.train.shape, []
        edges = [*trainer.patch[:-2], *(edge + 2 * margin for edge in trainer.patch[-2:])]
        center = np.unravel_index(anchor, shape)
        for c, edge, size, stride in zip(center, edges, shape, trainer.network.stride, strict=True):
            start = max(0, min(int(c) - edge // 2, size - edge)) // stride * stride
            region.append(slice(start, min(size, start + edge)))
        where, train = tuple(region), plane.train
        marked = self._newer.get(id(plane), np.broadcast_to(False, train.shape))
        image, truth, newer = (
            torch.from_numpy(np.ascontiguousarray(array)).to(trainer.device)
            for array in (trainer.data.read(plane, where), train[where], marked[where])
        )
        known, near = truth != IGNORE_INDEX, around(newer[None], KEEP_AWAY)[0]
        return image, newer, known & ~newer, ~known & ~near, truth

    # -- fit ---------------------------------------------------------------------------------------

    def wrong(self, rows: Tensor) -> Tensor:
        """Which newer voxels a last layer gets wrong."""
        return _applied(self.strokes.features, rows).argmax(1) != self.strokes.wanted

    def solve(self) -> bool:
        """Move to the last layer nearest to the shown one that makes enough of the strokes right.

        False: the shown one does.
        """
        rows, wrong = self.start, self.wrong(self.start)
        if float(wrong.float().mean()) <= TOLERATED_ERROR:
            return False
        for weight in STROKE_WEIGHTS:
            self._between()
            rows = self._fit(rows, weight)
            if float(self.wrong(rows)[wrong].float().mean()) <= 1 - ENOUGH:
                break
        self._apply(rows)
        return True

    def _fit(self, rows: Tensor, weight: float) -> Tensor:
        rows = rows.clone().requires_grad_(True)
        optimizer = torch.optim.LBFGS([rows], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = weight * _error(self.strokes, rows)
            if len(self.labelled.features):
                labelled = _error(self.labelled, rows, self.trainer.class_weights)
                loss = loss + (1 - weight) * labelled
            if len(self.distilled.features):
                logs = _applied(self.distilled.features, rows).log_softmax(1)
                loss = loss - DISTILLATION_WEIGHT * (self.distilled.wanted * logs).sum(1).mean()
            loss = loss + 1e-4 * (rows - self.start).square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return rows.detach()

    def _apply(self, rows: Tensor) -> None:
        """Move the last layers of network and EMA by the same difference; distil that EMA."""
        trainer, change = self.trainer, rows - self.start
        with torch.no_grad():
            for head in (trainer.network.head, trainer.ema_network.head):
                assert head.bias is not None
                head.weight.add_(change[:, :-1].view_as(head.weight))
                head.bias.add_(change[:, -1])
        if trainer.distillation is not None:
            trainer.distillation.follow(trainer.ema_network)


def _applied(features: Tensor, rows: Tensor) -> Tensor:
    """Logits (V, classes) of features (V, F)."""
    logits = features @ rows[:, :-1].T + rows[:, -1]
    return torch.cat([0 * logits, logits], 1) if logits.shape[1] == 1 else logits


def _error(voxels: _Voxels, rows: Tensor, weights: Tensor | None = None) -> Tensor:
    return functional.cross_entropy(_applied(voxels.features, rows), voxels.wanted, weight=weights)


def _drawn(parts: list[_Voxels], most: int, rng: np.random.Generator) -> _Voxels:
    """At most so many voxels of these, at random."""
    features, wanted = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    kept = torch.from_numpy(rng.permutation(len(features))[:most]).to(features.device)
    return _Voxels(features[kept], wanted[kept])
