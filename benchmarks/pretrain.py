"""Train the body that new trainings begin with, on random worlds with random strokes.

    python benchmarks/pretrain.py OUT [--worlds 2000] [--minutes 35] [--init FILE] [--seed 0]

An episode is a world: a last layer is fitted by ridge regression to the features at the strokes of
one or two pictures, and what it says of all other pixels of three pictures is the loss, whose
gradient goes through the fit (Bertinetto et al. 2019, https://arxiv.org/abs/1805.08136). OUT is a
``.safetensors`` file with everything but the last layer, float16. No picture of anybody is used.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from worlds import CLASSES, EDGE, field, make_bank

from napari_unetseg.models.unet import UNet
from napari_unetseg.training.linear_probe import BACKBONE_DEPTH, BACKBONE_WIDTH
from napari_unetseg.training.losses import LossInputs, class_weights, cross_entropy, dice_loss

CROP = 112
EPISODES = 2
"""Worlds of an optimiser step."""
RIDGE = 0.01
FEWEST, MOST_STROKES = 25, 250
"""Pixels of a class that are painted on a picture."""
Episode = tuple[Tensor, Tensor, Tensor, int]


def painted(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where strokes are: pieces of thin curves, about as many pixels of each class."""
    curves = np.abs(field(rng, rng.uniform(2, 5), CROP)) < 0.06
    near = field(rng, 8, CROP).ravel()
    wanted = int(np.exp(rng.uniform(math.log(FEWEST), math.log(MOST_STROKES))))
    found = np.zeros(classes.size, bool)
    for number in range(CLASSES):
        places = np.flatnonzero((curves & (classes == number)).ravel())
        order = near[places] + 0.3 * rng.standard_normal(len(places))
        found[places[np.argsort(order)[:wanted]]] = True
    return found.reshape(classes.shape)


def episode(images: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> Episode | None:
    """Pictures (P, 3, CROP, CROP), classes, where strokes are, and the number of classes."""
    present = np.unique(truth)
    table = np.zeros(CLASSES, int)
    table[present] = np.arange(len(present))
    if len(present) == CLASSES and rng.random() < 0.4:  # two of three are one
        table = rng.permutation([0, 1, 1])
    y, x = rng.integers(0, EDGE - CROP + 1, 2)
    image = images[:, :, y : y + CROP, x : x + CROP].astype(np.float32)
    target = table[truth[:, y : y + CROP, x : x + CROP]]
    turns = rng.integers(4)
    image, target = np.rot90(image, turns, (-2, -1)), np.rot90(target, turns, (-2, -1))
    if rng.random() < 0.5:
        image, target = image[..., ::-1], target[..., ::-1]
    if rng.random() < 0.3:
        image = image[:, rng.permutation(3)]
    if rng.random() < 0.15:
        image = 1 - image
    strokes = np.zeros(target.shape, bool)
    for number in range(rng.choice([1, 1, 2])):
        strokes[number] = painted(target[number], rng)
    classes = int(table.max()) + 1
    if np.bincount(target[strokes], minlength=classes).min() < 8:
        return None
    arrays = (np.ascontiguousarray(a) for a in (image, target.astype(np.int64), strokes))
    return (*(torch.from_numpy(a) for a in arrays), classes)


def fitted(features: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Ridge regression to −1 and 1, all classes alike: (features + 1, classes)."""
    weight = class_weights(torch.bincount(truth, minlength=classes))[truth][:, None]
    known = functional.pad(features, (0, 1), value=1.0)
    wanted = functional.one_hot(truth, classes).float() * 2 - 1
    ridge = torch.full((known.shape[1],), RIDGE * len(known))
    ridge[-1] = 1e-3
    return torch.linalg.solve(
        known.T @ (weight * known) + ridge.diag(), known.T @ (weight * wanted)
    )


def loss_of(network: UNet, scale: Tensor, example: Episode) -> tuple[Tensor, float]:
    """The loss of what the fitted layer says of unpainted pixels, and the mean Dice."""
    image, truth, strokes, classes = example
    features = network(image).movedim(1, -1)
    rows = fitted(features[strokes], truth[strokes], classes)
    logits = (features[~strokes] @ rows[:-1] + rows[-1]) * scale
    target = truth[~strokes]
    weights = class_weights(torch.bincount(target, minlength=classes))
    batch = LossInputs(image[None], logits.T[None], target[None], weights)
    loss = cross_entropy(batch).value + dice_loss(batch).value
    said = logits.argmax(1)
    dice = [
        2 * ((said == k) & (target == k)).sum() / ((said == k).sum() + (target == k).sum())
        for k in range(classes)
    ]
    return loss, float(torch.stack(dice).nan_to_num().mean())


def main() -> None:
    """Read the options, make the worlds, train, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--worlds", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=35)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--init", type=Path, help="go on from such a file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    images, truths = make_bank(options.seed + 1, options.worlds)
    network = UNet(3, 2, width=BACKBONE_WIDTH, depth=BACKBONE_DEPTH)
    network.head = nn.Identity()  # type: ignore[assignment]
    if options.init:
        network.load_state_dict(load_file(options.init), strict=False)
    scale = nn.Parameter(torch.tensor(2.3))
    optimizer = torch.optim.AdamW([*network.parameters(), scale], lr=options.rate)
    started, step, scores = time.monotonic(), 0, []
    while (done := (time.monotonic() - started) / 60 / options.minutes) < 1:
        falling = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1.0, (step + 1) / 50) * falling
        optimizer.zero_grad()
        examples: list[Episode] = []
        while len(examples) < EPISODES:
            number = rng.integers(len(images))
            if (made := episode(images[number], truths[number], rng)) is not None:
                examples.append(made)
        for example in examples:
            loss, dice = loss_of(network, scale, example)
            (loss / EPISODES).backward()
            scores.append(dice)
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        step += 1
        if step % 250 == 0:
            print(f"step {step}: mean Dice of the last 500 episodes {np.mean(scores[-500:]):.3f}")
    state = network.state_dict().items()
    save_file({n: t.half() for n, t in state if t.is_floating_point()}, options.out)


if __name__ == "__main__":
    main()
