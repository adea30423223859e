"""Train the body that new trainings begin with, on real pictures and random worlds.

    python benchmarks/pretrain.py OUT [--corpus DIR] [--minutes 60] [--init FILE] [--resume FILE]

An episode is a set of pictures, or a world, in one look: a last layer is fitted by ridge regression
to the features at the strokes of one or two pictures, and what it says of all other pixels of three
pictures is the loss, whose gradient goes through the fit (Bertinetto et al. 2019,
https://arxiv.org/abs/1805.08136). In some episodes more strokes are at the mistakes of that fit, as
users paint them. OUT is a ``.safetensors`` file with everything but the last layer, float16;
``OUT.checkpoint`` holds the state before the learning rate fell, to go on from (``--resume``), and
``OUT.json`` where the weights are from: sets, licences, options, steps, hours, versions.
``--without`` leaves groups or sets of the corpus out, to be measured on.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from corpus import CorpusEpisodes, CorpusSet, as_tensors, read_corpus
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from watch import machine, write_json
from worlds import CLASSES, EDGE, field, make_bank

from napari_unetseg.models.unet import UNet
from napari_unetseg.training.linear_probe import BACKBONE_DEPTH, BACKBONE_WIDTH
from napari_unetseg.training.losses import LossInputs, class_weights, cross_entropy, dice_loss

CROP, PICTURES = 112, 3
EPISODES = 2
"""Episodes of an optimiser step."""
REAL = 0.75
"""How often an episode is from the corpus."""
RIDGE = 0.01
FEWEST, MOST_STROKES = 25, 250
"""Pixels of a class that are painted on a picture."""
CORRECTED = 0.3
"""How often strokes at the mistakes of the first fit are added."""
FALLING = 0.3
"""Last part of the time, in which the learning rate falls to 0."""
Json = dict[str, Any]
Episode = tuple[Tensor, Tensor, Tensor, int]


def painted(classes: np.ndarray, rng: np.random.Generator, wanted: int) -> np.ndarray:
    """Where strokes are: pieces of thin curves, up to ``wanted`` pixels of each class."""
    curves = np.abs(field(rng, rng.uniform(2, 5), CROP)) < 0.06
    near = field(rng, 8, CROP).ravel()
    found = np.zeros(classes.size, bool)
    for number in range(CLASSES):
        places = np.flatnonzero((curves & (classes == number)).ravel())
        order = near[places] + 0.3 * rng.standard_normal(len(places))
        found[places[np.argsort(order)[:wanted]]] = True
    return found.reshape(classes.shape)


def turned(image: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> tuple[Any, Any]:
    """Images and classes, turned and mirrored alike."""
    turns = int(rng.integers(4))
    image, target = np.rot90(image, turns, (-2, -1)), np.rot90(target, turns, (-2, -1))
    if rng.random() < 0.5:
        image, target = image[..., ::-1], target[..., ::-1]
    return image, target


def episode(image: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> Episode | None:
    """Images (P, 3, CROP, CROP), classes, where strokes are, and the number of classes."""
    counts = np.bincount(truth.ravel(), minlength=256)
    present = np.flatnonzero(counts > 0.002 * truth.size)
    if len(present) < 2:
        return None
    labels = rng.permutation(len(present)) % CLASSES  # more than three are joined
    if len(present) == CLASSES and rng.random() < 0.4:  # two of three are one
        labels = rng.permutation([0, 1, 1])
    table = np.zeros(256, int)
    table[present] = labels
    image, target = turned(image, table[truth], rng)
    wanted = int(np.exp(rng.uniform(math.log(FEWEST), math.log(MOST_STROKES))))
    strokes = np.zeros(target.shape, bool)
    for number in range(rng.choice([1, 1, 2])):
        strokes[number] = painted(target[number], rng, wanted)
    classes = int(table.max()) + 1
    if np.bincount(target[strokes], minlength=classes).min() < 8:
        return None
    return (*as_tensors(image.astype(np.float32), target.astype(np.int64), strokes), classes)  # type: ignore[return-value]


class Source:
    """Draws episodes from worlds and a corpus."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.images, self.truths = make_bank(options.seed + 1, options.worlds)
        left_out = options.without.split(",")
        self.sets = read_corpus(options.corpus, left_out) if options.corpus else []
        self.corpus = CorpusEpisodes(self.sets, CROP) if self.sets else None

    def draw(self, rng: np.random.Generator) -> tuple[str, Episode]:
        """The name of where an episode is from, and the episode."""
        while True:
            name, images, truth = self._pictures(rng)
            if (made := episode(images, truth, rng)) is not None:
                return name, made

    def _pictures(self, rng: np.random.Generator) -> tuple[str, np.ndarray, np.ndarray]:
        if self.corpus and rng.random() < REAL:
            return self.corpus.draw(rng, PICTURES)
        number = rng.integers(len(self.images))
        y, x = rng.integers(0, EDGE - CROP + 1, 2)
        image = self.images[number][:, :, y : y + CROP, x : x + CROP]
        if rng.random() < 0.3:
            image = image[:, rng.permutation(3)]
        if rng.random() < 0.15:
            image = 1 - image
        return "worlds", image, self.truths[number][:, y : y + CROP, x : x + CROP]


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


def applied(features: Tensor, rows: Tensor) -> Tensor:
    """Logits (N, classes) of features (N, F)."""
    logits: Tensor = features @ rows[:-1] + rows[-1]
    return logits


def corrected(example: Episode, features: Tensor, rng: np.random.Generator) -> Tensor:
    """Strokes with more of them where a fit to the strokes is wrong, in the painted pictures."""
    _, truth, strokes, classes = example
    with torch.no_grad():
        rows = fitted(features[strokes], truth[strokes], classes)
        wrong = (applied(features, rows).argmax(-1) != truth).numpy()
    more = strokes.clone()
    for number in np.flatnonzero(strokes.flatten(1).any(1).numpy()):
        places = np.where(wrong[number], truth[number].numpy(), 255)
        more[number] |= torch.from_numpy(painted(places, rng, int(rng.integers(10, 100))))
    return more


def loss_of(
    network: UNet, scale: Tensor, example: Episode, rng: np.random.Generator
) -> tuple[Tensor, float]:
    """The loss of what the fitted layer says of unpainted pixels, and the mean Dice."""
    image, truth, strokes, classes = example
    with torch.autocast("cpu", torch.bfloat16):
        features = network.features(image.contiguous(memory_format=torch.channels_last))
    features = features.float().movedim(1, -1)
    if rng.random() < CORRECTED:
        strokes = corrected(example, features.detach(), rng)
    rows = fitted(features[strokes], truth[strokes], classes)
    logits = applied(features[~strokes], rows) * scale
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


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--corpus", type=Path, help="folder with real pictures; default: worlds alone"
    )
    parser.add_argument("--without", default="", help="groups or sets to leave out, by commas")
    parser.add_argument("--worlds", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--width", type=int, default=BACKBONE_WIDTH)
    parser.add_argument("--depth", type=int, default=BACKBONE_DEPTH)
    parser.add_argument("--init", type=Path, help="begin with such a file")
    parser.add_argument("--resume", type=Path, help="go on from such a checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def run(options: argparse.Namespace) -> None:
    """Train, and write checkpoint and file."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    source = Source(options)
    network = UNet(3, 2, width=options.width, depth=options.depth, image_features=True)
    network.head = nn.Identity()  # type: ignore[assignment]
    if options.init:
        network.load_state_dict(load_file(options.init), strict=False)
    network.to(memory_format=torch.channels_last)
    scale = nn.Parameter(torch.tensor(2.3))
    optimizer = torch.optim.AdamW([*network.parameters(), scale], lr=options.rate)
    if options.resume:
        restore(load_file(options.resume), network, optimizer, scale)
    started, step, scores, saved = time.monotonic(), 0, defaultdict(list), False
    checkpoint = options.out.with_suffix(".checkpoint")
    while (done := (time.monotonic() - started) / 60 / options.minutes) < 1:
        if not saved and done > 1 - FALLING:
            save_file(state_of(network, optimizer, scale), checkpoint)
            saved = True
        falling = min(1.0, (1 - done) / FALLING)
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1.0, (step + 1) / 50) * falling
        optimizer.zero_grad()
        for _ in range(EPISODES):
            name, example = source.draw(rng)
            loss, dice = loss_of(network, scale, example, rng)
            (loss / EPISODES).backward()  # type: ignore[no-untyped-call]
            scores[name].append(dice)
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        step += 1
        if step % 500 == 0:
            report(step, (time.monotonic() - started) / 60, scores)
            save(network, options.out)
    report(step, options.minutes, scores)
    save(network, options.out)
    write_json(options.out.with_suffix(".json"), provenance(options, source.sets, step))


def provenance(options: argparse.Namespace, sets: Sequence[CorpusSet], steps: int) -> Json:
    """Where the weights are from."""
    return {
        "program": "benchmarks/pretrain.py",
        "options": {n: v for n, v in vars(options).items() if not isinstance(v, Path)},
        "sha256": digest(options.out),
        "begun_with": digest(options.init or options.resume),
        "steps": steps,
        "episodes": steps * EPISODES,
        "cpu_minutes": round(time.process_time() / 60),
        "machine": machine(),
        "sets": [
            {
                "name": one.name,
                "pictures": len(one.pictures),
                "origin": one.origin,
                "licence": one.licence,
            }
            for one in sets
        ],
    }


def digest(path: Path | None) -> str | None:
    """SHA-256 of a file."""
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def state_of(network: UNet, optimizer: torch.optim.Optimizer, scale: Tensor) -> dict[str, Tensor]:
    """Network, optimiser and scale as tensors with names."""
    found = {f"network.{n}": t for n, t in network.state_dict().items()} | {"scale": scale}
    for number, state in optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{number}.{n}": t for n, t in state.items()}
    return {n: t.detach().contiguous().clone() for n, t in found.items()}


def restore(
    kept: dict[str, Tensor], network: UNet, optimizer: torch.optim.Optimizer, scale: Tensor
) -> None:
    """Give back what `state_of` took."""
    network.load_state_dict(
        {n.removeprefix("network."): t for n, t in kept.items() if n.startswith("network.")}
    )
    states: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in kept.items():
        if name.startswith("optimizer."):
            _, number, what = name.split(".")
            states[int(number)][what] = tensor
    optimizer.load_state_dict(
        {"state": dict(states), "param_groups": optimizer.state_dict()["param_groups"]}
    )
    scale.data.copy_(kept["scale"])


def save(network: UNet, path: Path) -> None:
    """Write the weights of everything but the last layer, float16."""
    state = network.state_dict().items()
    kept = {n: t.contiguous().half() for n, t in state if t.is_floating_point()}
    save_file(kept, path)


def report(step: int, minutes: float, scores: dict[str, list[float]]) -> None:
    """Print the mean Dice of the last episodes of each set, and its mean over sets."""
    means = {name: float(np.mean(found[-100:])) for name, found in sorted(scores.items())}
    each = ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())
    print(
        f"step {step}, {minutes:.1f} min: mean {np.mean(list(means.values())):.4f}; {each}",
        flush=True,
    )


if __name__ == "__main__":
    run(parse())
