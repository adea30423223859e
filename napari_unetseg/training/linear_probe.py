"""Initial model without a step: pretrained backbone, recalibrated batch norms, linear probe.

The backbone was trained on synthetic images with random strokes, so that its features are linearly
separable (``benchmarks/pretrain.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from napari_unetseg.core.architectures import ARCHITECTURES
from napari_unetseg.core.labels import IGNORE_INDEX
from napari_unetseg.models.transfer import first_layer, inflate
from napari_unetseg.models.unet import NORMS, probabilities

if TYPE_CHECKING:
    from napari_unetseg.core.settings import NetSettings
    from napari_unetseg.models.unet import UNet

BACKBONE = Path(__file__).parents[1] / "models" / "body.safetensors"
BACKBONE_WIDTH, BACKBONE_DEPTH = 16, 4
RIDGE = 1e-3
"""L2 penalty on the coefficients of standardised features."""
MOST_VOXELS = 40_000
"""Most labelled voxels in the fit of the last layer."""
CALIBRATION_EDGE = 384
"""Edge in Y and X, in voxels, of the crops on which batch norms are recalibrated."""
EM_ITERATIONS = 50
"""Iterations of expectation maximisation, far beyond convergence."""
MIN_PRIOR = 0.01
PRIOR_STRIDE = 5
"""Every fifth voxel enters the estimate of class priors."""
Sample = tuple[Tensor, Tensor]


def load_backbone(net: NetSettings) -> dict[str, Tensor] | None:
    """The shipped weights of everything but the last layer, None for another architecture.

    They are of a 2D U-Net for RGB: other channels get sums of the kernels (`first_layer`), 3D
    networks inflated kernels (`inflate`), and shallower ones the upper levels.
    """
    same = ARCHITECTURES[net.encoder].pretrained and net.width == BACKBONE_WIDTH
    if not same or net.norm != "batch":
        return None
    if net.depth > BACKBONE_DEPTH or any(level[-2:] != (2, 2) for level in net.strides or ()):
        return None
    weights = load_file(BACKBONE)
    deepest = net.depth - 1
    backbone = {}
    for name, tensor in weights.items():
        room, level, *rest = name.split(".")
        if room == "bottleneck" and net.depth < BACKBONE_DEPTH:
            continue
        if room != "bottleneck" and int(level) >= deepest:
            if room != "encoder" or int(level) > deepest:
                continue
            name = ".".join(["bottleneck", *rest])
        backbone[name] = tensor.float()
    entry = ("encoder.0." if deepest else "bottleneck.") + "0.weight"
    backbone[entry] = first_layer(backbone[entry], net.in_channels)
    return inflate(backbone, net) if net.dims == 3 else backbone


@torch.no_grad()
def recalibrate_batchnorm(
    network: nn.Module, images: Iterable[Tensor], leave: nn.Module | None = None
) -> None:
    """Measure the mean and variance of each batch norm on these images (C, *spatial).

    AdaBN of Li et al. 2016 (https://arxiv.org/abs/1603.04779). Norms in ``leave`` stay as they are.
    """
    left = set(leave.modules()) if leave is not None else set()
    norms = [m for m in network.modules() if isinstance(m, NORMS) and m not in left]
    if not norms:
        return
    usual = [m.momentum for m in norms]
    network.eval()
    try:
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # cumulative mean over all images
        for image in images:
            if image[0].numel() > 1:
                network(image[None][..., :CALIBRATION_EDGE, :CALIBRATION_EDGE])
    finally:
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum


class LinearProbe:
    """Logistic regression on the network's features, written into its last layer.

    Parameters
    ----------
    network
        A U-Net with a 1 × 1 ``head``; only that is changed.
    samples
        Images (C, *spatial) and class indices (*spatial), `IGNORE_INDEX` where nothing is labelled.
    """

    def __init__(self, network: UNet, samples: Iterable[Sample]) -> None:
        self.head = network.head
        self.everywhere: list[Tensor] = []
        features, truth = [], []
        fast = network.folded()
        with torch.no_grad():
            for image, target in samples:
                found = fast.features(image[None])[0].float()
                known = target != IGNORE_INDEX
                features.append(found[:, known].T)
                truth.append(target[known].long())
                self.everywhere.append(found.flatten(1)[:, ::PRIOR_STRIDE])
        self.features, self.truth = torch.cat(features), torch.cat(truth)
        self._thin_out(max(2, self.head.out_channels))

    def _thin_out(self, classes: int) -> None:
        """Subsample the voxels of each class and keep the weight that each stands for."""
        most = max(1, MOST_VOXELS // classes)
        kept = []
        for number in range(classes):
            places = torch.nonzero(self.truth == number)[:, 0]
            chosen = torch.randperm(len(places))[:most].to(places.device)
            kept.append(places[chosen])
        before = torch.bincount(self.truth, minlength=classes)
        index = torch.cat(kept)
        self.features, self.truth = self.features[index], self.truth[index]
        after = torch.bincount(self.truth, minlength=classes)
        self.stands_for = before / after.clamp(min=1)
        self.complete = bool((after > 0).all())

    def fit(self, weights: Tensor | None) -> None:
        """Fit with class weights (classes,), or None."""
        head, outputs = self.head, self.head.out_channels
        middle, spread = self.features.mean(0), self.features.std(0) + 1e-3
        standard = (self.features - middle) / spread
        counts = self.stands_for if weights is None else weights * self.stands_for
        rows, bias = _logistic(standard, self.truth, max(2, outputs), counts)
        rows = rows / spread
        bias = bias - rows @ middle
        if outputs == 1:  # one logit stands for the difference of two
            rows, bias = rows[1:] - rows[:1], bias[1:] - bias[:1]
        assert head.bias is not None
        with torch.no_grad():
            head.weight.copy_(rows.view_as(head.weight))
            head.bias.copy_(bias)

    @torch.no_grad()
    def recalls(self) -> Tensor:
        """Fraction of each class's labelled voxels that the fitted layer gets right, (classes,)."""
        head, classes = self.head, max(2, self.head.out_channels)
        assert head.bias is not None
        logits = self.features @ head.weight.flatten(1).T + head.bias
        found = (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)
        right = torch.bincount(self.truth[found == self.truth], minlength=classes)
        return right / torch.bincount(self.truth, minlength=classes).clamp(min=1)

    @torch.no_grad()
    def estimate_class_priors(self) -> Tensor:
        """Class priors (classes,) float32 that sum to 1.

        Strokes do not give them, since rare structures are painted as much as the background. They
        are
        estimated from the fitted layer's probabilities by expectation maximisation (Saerens,
        Latinne
        and Decaestecker 2002, https://doi.org/10.1162/089976602753284446).
        """
        head = self.head
        assert head.bias is not None
        rows, bias = head.weight.flatten(1), head.bias[:, None]
        said = torch.cat([probabilities(rows @ f + bias) for f in self.everywhere], 1)
        shares = said.new_full((len(said), 1), 1 / len(said))
        for _ in range(EM_ITERATIONS):
            likely = said * shares
            shares = (likely / likely.sum(0)).mean(1, keepdim=True)
        shares = shares[:, 0].clamp(min=min(MIN_PRIOR, 0.1 / len(said)))
        return (shares / shares.sum()).cpu()


def _logistic(
    features: Tensor, truth: Tensor, classes: int, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression by L-BFGS: (classes, features) and (classes,)."""
    rows = torch.zeros(classes, features.shape[1], device=features.device, requires_grad=True)
    bias = torch.zeros(classes, device=features.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([rows, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(features @ rows.T + bias, truth, weight=weights)
        loss = loss + RIDGE * (rows**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return rows.detach(), bias.detach()
