"""What `speed.py` times: our training and prediction, those of the peers, the machine's own peak.

A contender does a piece of work when it is asked to, such as a training step or the prediction of
an image. Its floating-point operations are those that the network needs for its pixels: what is
computed twice, as in overlapping tiles, counts once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from napari_unetseg import sample
from napari_unetseg.core.image_stack import Stack
from napari_unetseg.core.job_control import JobControl
from napari_unetseg.core.labels import LabelKind
from napari_unetseg.core.settings import PredictSettings, TrainSettings
from napari_unetseg.data.annotated_image import AnnotatedImage
from napari_unetseg.inference.predict import predict
from napari_unetseg.models.model import load_model
from napari_unetseg.training.train import train_events
from napari_unetseg.training.training_events import StepDone, TrainingPrepared

CROPS = 8
"""Ready-made batches that a peer trains on in turn."""
FLOP_EDGE = 256
"""Edge in pixels of the image whose operations are counted; they grow with its area."""
MATMUL = {"cpu": 2048, "cuda": 8192}
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True, slots=True)
class Task:
    """What all contenders do alike; ``models`` is the folder of our trained networks."""

    device: str
    threads: int
    patch: int
    batch: int
    image: int
    models: Path

    @property
    def mixed(self) -> Any:
        """Mixed precision, on a GPU."""
        return torch.autocast("cuda", torch.float16, enabled=self.device == "cuda")

    def picture(self) -> np.ndarray:
        """The sample's nuclei, repeated to (image, image) uint16."""
        nuclei = sample.nuclei2d()[0][0]
        times = -(-self.image // min(nuclei.shape))
        return np.ascontiguousarray(np.tile(nuclei, (times, times))[: self.image, : self.image])


@dataclass(frozen=True, slots=True)
class Spent:
    """Wall and CPU seconds; the latter of all threads of the process."""

    seconds: float
    cpu: float

    @classmethod
    def on(cls, device: str, work: Callable[[], Any]) -> tuple[Any, Spent]:
        """Do some work to its end; its result, and what it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        if device == "cuda":
            torch.cuda.synchronize()
        return result, cls(time.perf_counter() - wall, time.process_time() - cpu)


@dataclass(frozen=True, slots=True)
class Contender:
    """Pixels of a piece of work, the piece, and an end that counts a piece's operations."""

    pixels: int
    piece: Callable[[], Spent]
    finish: Callable[[], float]


# -- operations ------------------------------------------------------------------------------------


def flops(network: nn.Module, shape: tuple[int, ...], *, training: bool) -> float:
    """Operations of a pass over a batch (N, C, Y, X), in training with the way back."""
    network = network.cpu().train(training)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
        out = network(torch.rand(shape))
        if training:
            out.sum().backward()
    return float(counter.get_total_flops())


def flops_of_image(network: nn.Module, channels: int, pixels: int) -> float:
    """Operations of a whole image at once."""
    counted = flops(network, (1, channels, FLOP_EDGE, FLOP_EDGE), training=False)
    return counted * pixels / FLOP_EDGE**2


# -- training --------------------------------------------------------------------------------------


def our_training(task: Task, width: int | None) -> Contender:
    """Steps of `train_events` with sampling, augmentation and averaging, but without scoring.

    Default settings but for what the task gives to all; keeps its model for `our_prediction`.
    """
    control = JobControl(task.threads)
    chosen: dict[str, Any] = {"patch": task.patch, "batch": task.batch, "minutes": 600}
    if width is not None:
        chosen["width"] = width
    settings = TrainSettings(device=task.device, threads=task.threads, **chosen)
    image, strokes = (layer[0] for layer in sample.nuclei2d())
    pair = AnnotatedImage(Stack.from_array(image), strokes, LabelKind.STROKES)
    events = train_events([pair], settings, control=control)
    prepared = next(event for event in events if isinstance(event, TrainingPrepared))

    def piece() -> Spent:
        while True:
            event, spent = Spent.on(task.device, partial(next, events))
            if isinstance(event, StepDone):
                return spent

    def finish() -> float:
        control.stop()
        while True:
            try:
                next(events)
            except StopIteration as end:
                model = end.value
                break
        model.save(task.models / f"{width}.safetensors")
        shape = (prepared.batch, model.net.in_channels, *prepared.patch)
        return flops(model.network(), shape, training=True)

    return Contender(prepared.batch * int(np.prod(prepared.patch)), piece, finish)


def peer_training(task: Task, make: Callable[[], nn.Module], layout: str) -> Contender:
    """Plain steps on ready-made crops: forward, cross-entropy, backward, Adam."""
    torch.backends.cudnn.benchmark = True
    memory = LAYOUTS[layout]
    network: nn.Module = make().to(task.device).to(memory_format=memory)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(task.device, enabled=task.device == "cuda")
    shape = (task.batch, 1, task.patch, task.patch)
    crops = [
        (
            torch.rand(shape).to(task.device, memory_format=memory),
            torch.randint(2, (task.batch, task.patch, task.patch)).to(task.device),
        )
        for _ in range(CROPS)
    ]
    done = iter(range(10**9))

    def step() -> None:
        images, targets = crops[next(done) % CROPS]
        with task.mixed:
            loss = nn.functional.cross_entropy(network(images), targets)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return Contender(
        task.batch * task.patch**2,
        lambda: Spent.on(task.device, step)[1],
        lambda: flops(network.to(memory_format=torch.contiguous_format), shape, training=True),  # type: ignore[call-overload]
    )


def basic_unet() -> nn.Module:
    """MONAI's `BasicUNet` with default features."""
    from monai.networks.nets import BasicUNet

    return BasicUNet(spatial_dims=2, in_channels=1, out_channels=2)


def resnet_unet() -> nn.Module:
    """The U-Net of segmentation-models-pytorch on ResNet-18, nothing pretrained."""
    import segmentation_models_pytorch as smp

    return smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=2)


# -- prediction ------------------------------------------------------------------------------------


def our_prediction(task: Task, width: int | None) -> Contender:
    """`predict`: from the picture to its mask."""
    model, picture = load_model(task.models / f"{width}.safetensors"), task.picture()
    settings = PredictSettings(device=task.device, threads=task.threads)
    return Contender(
        picture.size,
        lambda: Spent.on(task.device, lambda: predict(model, picture, settings))[1],
        lambda: flops_of_image(model.network(), model.net.in_channels, picture.size),
    )


def sliding_window(task: Task, width: int | None, tile: int) -> Contender:
    """MONAI's `sliding_window_inference` on the same network, called the ordinary way."""
    from monai.inferers import sliding_window_inference

    model, picture = load_model(task.models / f"{width}.safetensors"), task.picture()
    network = model.network().to(task.device).eval()
    scaled = np.asarray(model.normalization.apply(picture[np.newaxis]), np.float32)
    image = torch.from_numpy(scaled)[None].to(task.device)

    def mask() -> Tensor:
        with torch.inference_mode():
            logits = sliding_window_inference(
                image, (tile, tile), 1, network, overlap=0.25, mode="gaussian"
            )
            found = logits.argmax(1) if logits.shape[1] > 1 else logits[:, 0] > 0
            return found.to(torch.uint8).cpu()

    return Contender(
        picture.size,
        lambda: Spent.on(task.device, mask)[1],
        lambda: flops_of_image(network, model.net.in_channels, picture.size),
    )


# -- the machine -----------------------------------------------------------------------------------


def matmul(task: Task) -> Contender:
    """A product of two square matrices: what the machine can do."""
    n = MATMUL.get(task.device, 2048)
    a, b = (torch.rand(n, n, device=task.device) for _ in range(2))

    def product() -> None:
        with torch.inference_mode(), task.mixed:
            torch.mm(a, b)

    return Contender(0, lambda: Spent.on(task.device, product)[1], lambda: 2.0 * n**3)


def convolution(task: Task, layout: str) -> Contender:
    """A 3 × 3 convolution of 64 to 64 features on a batch as large as the training's."""
    size = (task.batch, 64, task.patch, task.patch)
    layer: nn.Module = nn.Conv2d(64, 64, 3, padding=1, bias=False).to(task.device)
    layer = layer.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    x = torch.rand(size).to(task.device, memory_format=LAYOUTS[layout])

    def apply() -> None:
        with torch.inference_mode(), task.mixed:
            layer(x)

    count = 2.0 * 64 * 64 * 9 * task.batch * task.patch**2
    return Contender(0, lambda: Spent.on(task.device, apply)[1], lambda: count)


# -- by name ---------------------------------------------------------------------------------------


def make(name: str, task: Task) -> Contender:
    """The contender of a name, such as ``train:ours:32`` or ``predict:monai:512``."""
    job, who, how = name.split(":")
    width = int(how) if who == "ours" and how != "default" else None
    makers: dict[tuple[str, str], Callable[[], Contender]] = {
        ("train", "ours"): lambda: our_training(task, width),
        ("train", "monai"): lambda: peer_training(task, basic_unet, how),
        ("train", "smp"): lambda: peer_training(task, resnet_unet, how),
        ("predict", "ours"): lambda: our_prediction(task, width),
        ("predict", "monai"): lambda: sliding_window(task, None, int(how)),
        ("machine", "matmul"): lambda: matmul(task),
        ("machine", "convolution"): lambda: convolution(task, how),
    }
    return makers[job, who]()


def load_peer(name: str) -> None:
    """Import what a contender needs, so that its memory is not counted as its work's."""
    if ":monai:" in name:
        import monai.inferers
        import monai.networks.nets  # noqa: F401
    elif ":smp:" in name:
        import segmentation_models_pytorch  # noqa: F401
