"""Refit of the last layer to newer strokes, which shows them in the mask at once.

The features stay as they are, so that the problem is convex. Distillation of the shown mask keeps
it as it is away from the strokes (learning without forgetting, Li and Hoiem 2016,
https://arxiv.org/abs/1606.09282).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from napari_unetseg.core.labels import IGNORE_INDEX
from napari_unetseg.training.batch_sampler import Focus
from napari_unetseg.training.distillation import dilated

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
"""Most crops around newer strokes; one holds all that are nearer than half a patch."""
LABEL_CROPS, PLANE_CROPS = 4, 10
"""Crops around any labels, and planes that are cropped anywhere: of each image that was painted on
the mask is to stay.
"""
MOST_ANCHORS = 200
"""Voxels of newer strokes among which the centres of crops are chosen."""
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
Region = tuple[slice, ...]
Voxels = tuple[Tensor, Tensor]
"""Features (V, F), and what they should be: classes (V,) or probabilities (V, classes)."""


class HeadRefit:
    """The convex problem of a refit.

    Parameters
    ----------
    trainer
        Provides data and the EMA network, whose last layer `solve` changes.
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
        self._newer = {id(plane): indices for plane, indices in newer}
        head = trainer.ema_network.head
        assert head.bias is not None
        self.shown = torch.cat([head.weight.flatten(1), head.bias[:, None]], 1).detach().clone()
        """The shown last layer, (outputs, features + 1)."""
        self._gather(np.random.default_rng([trainer.settings.seed, STREAM, number]))

    # -- voxels ------------------------------------------------------------------------------------

    @torch.no_grad()
    def _gather(self, rng: np.random.Generator) -> None:
        """Compute the features of crops around newer strokes and elsewhere."""
        device, network = self.trainer.device, self.trainer.ema_network.folded()
        strokes, labelled, distilled = list[Voxels](), list[Voxels](), list[Voxels]()
        for plane, anchor, margin in self._places(rng):
            self._between()
            region, inner = self._crop(plane, anchor, margin)
            image = torch.from_numpy(self.trainer.data.read(plane, region)).to(device)
            features = network.features(image[None])[0].float().movedim(0, -1)[inner]
            truth = torch.from_numpy(plane.train[region].astype(np.int64)).to(device)
            newer = torch.from_numpy(self._marked(plane)[region]).to(device)
            free = ((truth == IGNORE_INDEX) & ~dilated(newer[None], KEEP_AWAY)[0])[inner]
            newer, truth = newer[inner], truth[inner]
            earlier = (truth != IGNORE_INDEX) & ~newer
            strokes.append((features[newer], truth[newer]))
            labelled.append((features[earlier], truth[earlier]))
            soft = features[free], _logits(features[free], self.shown).softmax(-1)
            distilled.append(_drawn([soft], MOST_DISTILLED // PLANE_CROPS, rng))
        self.strokes = _drawn(strokes, MOST_NEWER, rng)
        self.labelled = _drawn(labelled, MOST_LABELLED, rng)
        self.distilled = _drawn(distilled, MOST_DISTILLED, rng)

    def _places(self, rng: np.random.Generator) -> list[tuple[LabelledPlane, int, int]]:
        """Plane, anchor and margin of crops: on newer strokes, on any labels, and anywhere."""
        data = self.trainer.data
        count = len(data.planes)
        anywhere = [*rng.permutation(count), *rng.integers(count, size=PLANE_CROPS)][:PLANE_CROPS]
        planes = [data.planes[number] for number in anywhere]
        return [
            *((plane, anchor, MARGIN) for plane, anchor in self._centres(rng)),
            *((*data.sample_anchor(rng), 0) for _ in range(LABEL_CROPS)),
            *((plane, int(rng.integers(plane.train.size)), 0) for plane in planes),
        ]

    def _centres(self, rng: np.random.Generator) -> list[VoxelIndex]:
        """Voxels of the newer strokes, each beyond half a patch from those before."""
        reach = np.array(self.trainer.patch) / 2
        found: list[tuple[LabelledPlane, int, np.ndarray]] = []
        for number in rng.permutation(len(self._focus))[:MOST_ANCHORS].tolist():
            plane, flat = self._focus[number]
            at = np.array(np.unravel_index(flat, plane.train.shape))
            if all(other is not plane or (abs(at - c) > reach).any() for other, _, c in found):
                found.append((plane, flat, at))
        return [(plane, flat) for plane, flat, _ in found[:MOST_NEWER_CROPS]]

    def _crop(self, plane: LabelledPlane, anchor: int, margin: int) -> tuple[Region, Region]:
        """Where a crop lies in its plane, and the part of the crop without its margin.

        It is cut as in prediction, so that its features are those of the mask: it starts at a
        multiple of the stride, and ends at the image's border.
        """
        trainer, shape, region, inner = self.trainer, plane.train.shape, [], []
        rims = [0] * (len(shape) - 2) + [margin] * 2
        centre = np.unravel_index(anchor, shape)
        axes = zip(centre, trainer.patch, rims, shape, trainer.network.stride, strict=True)
        for at, edge, rim, size, stride in axes:
            edge += 2 * rim
            start = max(0, min(int(at) - edge // 2, size - edge)) // stride * stride
            stop = min(size, start + edge)
            region.append(slice(start, stop))
            inner.append(slice(rim if start else 0, stop - start - (rim if stop < size else 0)))
        return tuple(region), tuple(inner)

    def _marked(self, plane: LabelledPlane) -> np.ndarray:
        """Where newer voxels are in the plane, of its shape."""
        marked = np.zeros(plane.train.shape, bool)
        marked.reshape(-1)[self._newer.get(id(plane), [])] = True
        return marked

    # -- fit ---------------------------------------------------------------------------------------

    def solve(self) -> bool:
        """Move to the last layer nearest to the shown one that makes enough of the strokes right.

        False: the shown one does.
        """
        rows, wrong = self.shown, self._wrong(self.shown)
        if float(wrong.float().mean()) <= TOLERATED_ERROR:
            return False
        for weight in STROKE_WEIGHTS:
            self._between()
            rows = self._fit(rows, weight)
            if float(self._wrong(rows)[wrong].float().mean()) <= 1 - ENOUGH:
                break
        self._apply(rows - self.shown)
        return True

    def _wrong(self, rows: Tensor) -> Tensor:
        """Which newer voxels a last layer gets wrong."""
        features, truth = self.strokes
        return _logits(features, rows).argmax(1) != truth

    def _fit(self, rows: Tensor, weight: float) -> Tensor:
        """The last layer with this weight of the newer strokes, found from another one."""
        rows = rows.clone().requires_grad_(True)
        optimizer = torch.optim.LBFGS([rows], max_iter=ITERATIONS, line_search_fn="strong_wolfe")
        terms = (
            (weight, self.strokes, None),
            (1 - weight, self.labelled, self.trainer.class_weights),
            (DISTILLATION_WEIGHT, self.distilled, None),
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = 1e-4 * (rows - self.shown).square().sum()
            for share, (features, wanted), weights in terms:
                if len(features):
                    logits = _logits(features, rows)
                    loss = loss + share * functional.cross_entropy(logits, wanted, weights)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return rows.detach()

    @torch.no_grad()
    def _apply(self, change: Tensor) -> None:
        """Move the last layers of network and EMA by the same difference; distil that EMA."""
        trainer = self.trainer
        for head in (trainer.network.head, trainer.ema_network.head):
            assert head.bias is not None
            head.weight.add_(change[:, :-1].view_as(head.weight))
            head.bias.add_(change[:, -1])
        if trainer.distillation is not None:
            trainer.distillation.follow(trainer.ema_network)


def _logits(features: Tensor, rows: Tensor) -> Tensor:
    """Logits (V, classes) of features (V, F), two classes where one output stands for both."""
    logits = features @ rows[:, :-1].T + rows[:, -1]
    return torch.cat([torch.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits


def _drawn(parts: list[Voxels], most: int, rng: np.random.Generator) -> Voxels:
    """So many random voxels of all parts, at most."""
    features, wanted = map(torch.cat, zip(*parts, strict=True))
    kept = torch.from_numpy(rng.permutation(len(features))[:most]).to(features.device)
    return features[kept], wanted[kept]
