"""Fit of a trainer's last layer to the labels, which gives the initial model without a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from napari_unetseg.training.batch_sampler import seeded
from napari_unetseg.training.linear_probe import LinearProbe, recalibrate_batchnorm

if TYPE_CHECKING:
    from torch import Tensor

    from napari_unetseg.training.trainer import Trainer

PRIOR_TRUSTS = (1.0, 0.5, 0.25, 0.0)
"""Exponents of the estimated class priors; 0 makes them equal."""
SEPARABLE = 0.2, 0.6
"""Recall above chance, up to 1, at which the edge loss begins to count and counts fully: where the
features do not tell the labelled classes apart, edges of the image would carry the wrong ones on.
"""
KEPT_RECALL = 0.8
"""Fraction of each class's recall on its labels that class priors may leave of it."""


def fit_head(
    trainer: Trainer, *, recalibrate: bool, between: Callable[[], object] = lambda: None
) -> None:
    """Make an initial model without a step: fit the last layer to the labelled voxels.

    ``recalibrate`` first measures the batch norms on these images. ``between`` is called before
    each image, and may raise to end it.
    """
    network, device, settings = trainer.network, trainer.device, trainer.settings
    with seeded(device, settings.seed, 0):
        samples = []
        for pair in trainer.data.labelled_regions():
            between()
            samples.append(tuple(torch.from_numpy(array).to(device) for array in pair))

        def each() -> Iterator[tuple[Tensor, Tensor]]:
            for image, target in samples:
                between()
                yield image, target

        if recalibrate:
            frozen = network.encoder if trainer.frozen else None
            recalibrate_batchnorm(network, (image for image, _ in each()), frozen)
        head = LinearProbe(network, each())
        trainer.use_priors(None)
        head.fit(trainer.class_weights)
        if settings.class_weighting and head.complete:
            _fit_with_priors(trainer, head)
    trainer.ema_network.load_state_dict(network.state_dict())


def _fit_with_priors(trainer: Trainer, head: LinearProbe) -> None:
    """Fit again with estimated class priors, as far as the labels bear them out.

    Strokes at an earlier mask's mistakes look like the other class, so that the estimate can
    be far off: priors under which a class loses its own labels are drawn towards equal ones.
    """
    recalls, priors = head.recalls(), head.estimate_class_priors()
    chance = 1 / len(recalls)
    above_chance = (float(recalls.mean()) - chance) / (1 - chance)
    low, high = SEPARABLE
    trainer.separable = min(1.0, max(0.0, (above_chance - low) / (high - low)))
    for trust in PRIOR_TRUSTS:
        shrunk = priors**trust
        trainer.use_priors(tuple((shrunk / shrunk.sum()).tolist()))
        head.fit(trainer.class_weights)
        if bool((head.recalls() >= KEPT_RECALL * recalls).all()):
            return
