"""A small classifier of the data's own labels: generated images are judged by its features and its readings."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, Real
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from arcvq.analysis.sample_quality import as_uint8
from arcvq.images import ImageData, ImageSplit, to_float
from arcvq.runtime.devices import choose_device
from arcvq.runtime.files import safe_name, write_whole
from arcvq.runtime.store import digest_of, kept_path
from arcvq.training import batch_indices

FEATURES = 64
STEPS, PASSES = 300, 4  # at least so many steps, and so many passes over the training images
BATCH_SIZE, LR, VALIDATE_EVERY = 128, 3e-3, 50
FORMAT = 1  # raised when a change of the code changes what training gives


class Classifier(nn.Module):
    """Three convolutions, their maps averaged to 4 x 4, and one layer of 64 features, for images from 4 x 4 pixels."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
            nn.Flatten(), nn.Linear(64 * 4 * 4, FEATURES), nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N classes"]:
        """Logits for images in [-1, 1]."""
        return self.head(self.body(images))


@dataclass
class TrainedClassifier:
    """A classifier and the share of the test images that it reads rightly.

    shape: (C, H, W) of its images. classes: their names. seconds: what training took.
    """

    model: Classifier
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    accuracy: float
    seconds: float

    def features(self, images: Real[Tensor, "N C H W"]) -> Float[Tensor, "N 64"]:
        """The layer before the logits, from 0, for uint8 images or floats in [-1, 1] of the training images' shape."""
        return self._read(self.model.body, images)

    def predict(self, images: Real[Tensor, "N C H W"]) -> Int[Tensor, " N"]:
        """The most likely label of each image."""
        return self._read(self.model, images).argmax(dim=1)

    def _read(self, network: nn.Module, images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"the classifier reads images of shape {self.shape}, got {tuple(images.shape[1:])}")
        return _in_batches(network, images)

    def save(self, folder: Path) -> None:
        """Write model.safetensors and, last, classifier.json into a folder."""
        write_whole(folder / "model.safetensors", lambda path: save_file(self.model.state_dict(), path))
        facts = {"shape": self.shape, "classes": self.classes, "accuracy": self.accuracy, "seconds": self.seconds}
        write_whole(folder / "classifier.json", lambda path: path.write_text(json.dumps(facts, indent=2)))

    @classmethod
    def load(cls, folder: Path) -> "TrainedClassifier":
        """The classifier in a folder that `save` wrote. Raises FileNotFoundError if it is not there."""
        facts = json.loads((folder / "classifier.json").read_text())
        shape, classes = tuple(facts.pop("shape")), tuple(facts.pop("classes"))
        with torch.device("meta"):  # no weights are drawn, so the caller's generator stays put
            model = Classifier(shape[0], len(classes))
        model.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
        return cls(model.eval(), shape, classes, **facts)


def train_classifier(images: ImageData, *, root: str | Path | None = None, device: str | torch.device = "auto",
                     seed: int = 0, progress: bool = True) -> TrainedClassifier:
    """The classifier of these images: opened from `root`/classifiers if it was trained before, else trained and kept.

    Training images teach it, validation images choose the best of its weights, test images are only counted. root None:
    `data_root()`. The caller's generators stay put. Raises ValueError for training images of one class.
    """
    if len(images.classes) < 2 or len(images.train.labels.unique()) < 2:
        raise ValueError(f"a classifier needs training images of two or more classes; {images.name} has "
                         f"{len(images.train.labels.unique())} ({', '.join(images.classes)})")
    device = choose_device(device)
    digest = digest_of([FORMAT, STEPS, PASSES, BATCH_SIZE, LR, VALIDATE_EVERY, seed, images.fingerprint])
    folder = kept_path(root, "classifiers", f"{safe_name(images.name)}-{digest}")
    if not (folder / "classifier.json").is_file():
        _fit(images.to(device), seed, progress).save(folder)
    classifier = TrainedClassifier.load(folder)
    classifier.model.to(device)
    return classifier


def _fit(images: ImageData, seed: int, progress: bool) -> TrainedClassifier:
    """Adam with one cycle of the learning rate; the weights that read most validation images rightly."""
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(images.channels, len(images.classes)).to(images.device)
    batch_size, best, weights = min(BATCH_SIZE, len(images.train)), -1.0, {}
    steps = max(STEPS, PASSES * len(images.train) // batch_size)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    for step in tqdm(range(1, steps + 1), desc="classifier", unit="step", disable=not progress):
        chosen = batch_indices(len(images.train), batch_size, seed, step - 1).to(images.device)
        loss = cross_entropy(model.train()(images.train.batch(chosen)), images.train.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % VALIDATE_EVERY and step < steps:
            continue
        if (accuracy := _accuracy(model, images.validation)) >= best:
            best, weights = accuracy, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(weights)
    return TrainedClassifier(model, tuple(images.train.images.shape[1:]), images.classes,
                             _accuracy(model, images.test), time.perf_counter() - began)


def _accuracy(model: Classifier, split: ImageSplit) -> float:
    return (_in_batches(model.eval(), split.images).argmax(dim=1) == split.labels).double().mean().item()


@torch.no_grad()
def _in_batches(network: nn.Module, images: Tensor) -> Tensor:
    device = next(network.parameters()).device
    return torch.cat([network(to_float(block.to(device))) for block in as_uint8(images).split(500)])
