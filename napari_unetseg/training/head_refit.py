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

if TYPE_CHECKING:
    from napari_unetseg.data.validation_split import LabelledPlane, VoxelIndices
    from napari_unetseg.training.trainer import Trainer

STROKE_WEIGHTS = (0.15, 0.3, 0.45, 0.65, 0.85)
"""Weights of newer strokes among all labels; the least that suffices is kept."""
DISTILLATION_WEIGHT = 3.0
"""Weight of the shown mask where nothing is labelled, relative to the labels."""
KEEP_AWAY = 16
"""Voxels in Y and X around newer strokes within which the shown mask is not distilled."""
NEWER_CROPS, OTHER_CROPS = 2, 6
"""Crops around newer strokes, and others: half of them around earlier labels."""
MARGIN = 24
"""Voxels that a crop is larger than a patch, on either side."""
MOST_NEWER, MOST_LABELLED, MOST_DISTILLED = 2_000, 3_000, 8_000
"""Most voxels of each kind in the fit."""
ITERATIONS = 15
"""L-BFGS iterations for each weight, from the solution of the one before."""
ENOUGH = 0.6
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

    def thinned(self, most: int) -> _Voxels:
        kept = torch.randperm(len(self.features))[:most].to(self.features.device)
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
        self.trainer, self.newer, self._between = trainer, newer, between
        self.head = trainer.ema_network.head
        self._rng = np.random.default_rng([trainer.settings.seed, STREAM, number])
        self._gather()

    # -- voxels ------------------------------------------------------------------------------------

    @torch.no_grad()
    def _gather(self) -> None:
        """Compute the features of crops around newer strokes and elsewhere."""
        seen: list[Tensor] = []
        network = self.trainer.ema_network.folded()
        network.head.register_forward_hook(lambda _m, inputs, _out: seen.append(inputs[0]))
        newer, labelled, distilled = [], [], []
        for plane, anchor in self._places():
            self._between()
            image, marks = self._crop(plane, anchor)
            seen.clear()
            logits = network(image[None])[0]
            features = seen[0][0].float().movedim(0, -1)
            newer.append(_Voxels(features[marks[0]], marks[2][marks[0]].long()))
            labelled.append(_Voxels(features[marks[1]], marks[2][marks[1]].long()))
            soft = _two(logits.float().movedim(0, -1)[marks[3]]).softmax(-1)
            distilled.append(_Voxels(features[marks[3]], soft).thinned(MOST_DISTILLED // 4))
        self.strokes = _joined(newer).thinned(MOST_NEWER)
        self.labelled = _joined(labelled).thinned(MOST_LABELLED)
        self.distilled = _joined(distilled).thinned(MOST_DISTILLED)

    def _places(self) -> list[tuple[LabelledPlane, int]]:
        """Anchors of crops: on newer strokes, on earlier labels, and anywhere."""
        rng, data = self._rng, self.trainer.data
        ends = np.cumsum([len(indices) for _, indices in self.newer])
        places = []
        for number in np.unique(np.linspace(0, ends[-1] - 1, NEWER_CROPS).astype(int)):
            which = int(np.searchsorted(ends, number, side="right"))
            plane, indices = self.newer[which]
            places.append((plane, int(indices[number - ends[which]])))
        for n in range(OTHER_CROPS):
            plane, anchor = data.sample_anchor(rng)
            places.append((plane, anchor if n % 2 else int(rng.integers(plane.train.size))))
        return places

    def _crop(self, plane: LabelledPlane, anchor: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """An image crop; where newer, earlier and no labels are; and the labels."""
        trainer = self.trainer
        fresh = next((i for p, i in self.newer if p is plane), None)
        labels = plane.train.astype(np.int16)
        if fresh is not None:
            labels.reshape(-1)[fresh] += 1000
        size = tuple(
            p + 2 * MARGIN * (a > 0) for a, p in enumerate(trainer.patch, 3 - len(trainer.patch))
        )
        image, target = trainer.data.crop_patch(
            plane, anchor, size, self._rng, trainer.patch, labels=labels
        )
        inside = np.zeros(target.shape, bool)
        inside[
            tuple(slice(MARGIN, -MARGIN) if s > 2 * MARGIN else slice(None) for s in target.shape)
        ] = True
        new = target >= 1000
        truth = np.where(new, target - 1000, target).astype(np.uint8)
        old = ~new & (truth != IGNORE_INDEX) & inside
        free = ~new & (truth == IGNORE_INDEX) & inside
        if new.any():
            away = np.stack([distance_transform_edt(~p) for p in new.reshape(-1, *new.shape[-2:])])
            free &= away.reshape(new.shape) > KEEP_AWAY
        tensors = (torch.from_numpy(a).to(trainer.device) for a in (new & inside, old, truth, free))
        return torch.from_numpy(image).to(trainer.device), tuple(tensors)

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
        """Move the last layers of network and EMA by the same difference."""
        change = rows - self.start()
        with torch.no_grad():
            for network in (self.trainer.network, self.trainer.ema_network):
                network.head.weight.add_(change[:, :-1].view_as(network.head.weight))
                if network.head.bias is not None:
                    network.head.bias.add_(change[:, -1])


def _applied(features: Tensor, rows: Tensor) -> Tensor:
    """Logits (V, classes) of features (V, F)."""
    return _two(features @ rows[:, :-1].T + rows[:, -1])


def _two(logits: Tensor) -> Tensor:
    """Logits of two classes where one output stands for both."""
    return torch.cat([torch.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits


def _joined(parts: list[_Voxels]) -> _Voxels:
    return _Voxels(torch.cat([p.features for p in parts]), torch.cat([p.wanted for p in parts]))
