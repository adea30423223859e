# ruff: noqa: T201
"""The classic script: a dataset, a U-Net, Adam, binary cross-entropy, 25 epochs.

    python classic_script.py IMAGES MASKS MODEL [--epochs 25]

IMAGES and MASKS are folders whose files share their names; masks are 0 and 255, or 0 and 1.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from napari_unetseg import FolderDataset, TrainSettings, evaluate, train
from napari_unetseg.training.training_events import EpochDone

if TYPE_CHECKING:
    from napari_unetseg.core.events import Event


def show(event: Event) -> None:
    """Print a line for each epoch."""
    if isinstance(event, EpochDone):
        dice = f"{event.scores.mean_dice:.3f}" if event.scores else "–"
        print(f"epoch {event.epoch}: loss {event.train_loss:.3f}, validation Dice {dice}")


def main() -> None:
    """Train on two folders and save the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images")
    parser.add_argument("masks")
    parser.add_argument("model")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--width", type=int, default=16)
    options = parser.parse_args()

    dataset = FolderDataset(options.images, options.masks)
    settings = TrainSettings.classic(  # Adam at 1e-3, binary cross-entropy
        epochs=options.epochs, depth=options.depth, width=options.width
    )
    model = train(dataset, settings, on_event=show)
    path = model.save(options.model)
    scores = evaluate(model, dataset).scores
    print(f"{path}: Dice {scores.mean_dice:.3f} on the images themselves")


if __name__ == "__main__":
    main()
