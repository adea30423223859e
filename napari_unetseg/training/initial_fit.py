"""Fit of a trainer's last layer to the labels, which gives the initial model without a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from napari_unetseg.core.object_maps import FULL_SCALE, UNKNOWN
from napari_unetseg.training.batch_sampler import seeded
from napari_unetseg.training.linear_probe import (
    MOST_VOXELS,
    RIDGE,
    LinearProbe,
    recalibrate_batchnorm,
)

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
        if trainer.learns_maps and trainer.data.has_objects:
            fit_maps(trainer, between)
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


def fit_maps(trainer: Trainer, between: Callable[[], object] = lambda: None) -> None:
    """Fit the last layer of the object maps to the known objects, by logistic regression."""
    device, fast = trainer.device, trainer.network.folded()
    features, wanted = [], []
    with torch.no_grad():
        for image, maps in trainer.data.object_regions():
            between()
            found = fast.features(torch.from_numpy(image)[None].to(device))[0].float()
            encoded = torch.from_numpy(maps).to(device)
            known = encoded[0] != UNKNOWN
            features.append(found[:, known].T)
            wanted.append(encoded[:, known].T.float() / FULL_SCALE)
    if not features:
        return
    x, y = torch.cat(features), torch.cat(wanted)
    kept = torch.randperm(len(x))[:MOST_VOXELS].to(device)
    rows, bias = _soft_logistic(x[kept], y[kept])
    head = trainer.network.maps_head
    assert head is not None
    assert head.bias is not None
    with torch.no_grad():
        head.weight.copy_(rows.view_as(head.weight))
        head.bias.copy_(bias)


def _soft_logistic(features: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Logistic regression of values from 0 to 1 by L-BFGS.

    Parameters
    ----------
    features, wanted
        (V, F) and (V, outputs).

    Returns
    -------
    rows, bias
        (outputs, F) and (outputs,).
    """
    middle, spread = features.mean(0), features.std(0) + 1e-3
    standard = (features - middle) / spread
    rows = torch.zeros(wanted.shape[1], features.shape[1], device=features.device)
    bias = torch.zeros(wanted.shape[1], device=features.device)
    unknowns = [rows.requires_grad_(True), bias.requires_grad_(True)]
    optimizer = torch.optim.LBFGS(unknowns, max_iter=30, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = standard @ rows.T + bias
        loss = functional.binary_cross_entropy_with_logits(logits, wanted)
        loss = loss + RIDGE * (rows**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    rows = rows.detach() / spread
    return rows, bias.detach() - rows @ middle
