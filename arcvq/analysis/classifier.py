"""A small image classifier whose features and predictions are used to judge generated images."""

import copy
import json
import math
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from arcvq.analysis.sample_quality import Images, as_uint8, label_agreement
from arcvq.images import ImageData, ImageSplit, to_float
from arcvq.runtime.checks import as_seed
from arcvq.runtime.devices import choose_device
from arcvq.runtime.files import reason_of, safe_name, write_text, write_whole
from arcvq.runtime.random_numbers import isolated_rng
from arcvq.runtime.store import digest_of, find_result
from arcvq.training import batch_indices

CLASSIFIER_FORMAT = 1  # raised when a change of the code changes what training gives
FEATURES = 64
STEPS = 300  # of training, at least
PASSES = 4  # over the training images, at least
BATCH_SIZE = 128
LR = 3e-3
VALIDATE_EVERY = 50  # steps


class Classifier(nn.Module):
    """Three convolutions, averaged to 4 x 4, and a layer of 64 features.

    Args:
        shape: (C, H, W) of the images, from 4 x 4 pixels.
        classes: The names of the classes.

    Attributes:
        accuracy: The share of test images that it classifies correctly, NaN before training.
    """

    def __init__(self, shape: tuple[int, ...], classes: tuple[str, ...]):
        super().__init__()
        self.shape = shape
        self.classes = classes
        self.accuracy = math.nan
        self.body = nn.Sequential(
            nn.Conv2d(shape[0], 16, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, len(classes))

    def forward(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N classes"]:
        """The logits of images in [-1, 1]."""
        return self.head(self.body(images))

    def features(self, images: Images) -> Float[Tensor, "N 64"]:
        """The layer before the logits, from 0.

        Args:
            images: uint8, or floats in [-1, 1], of the shape of the training images.
        """
        return self._in_batches(self.body, images)

    def predict(self, images: Images) -> Int[Tensor, " N"]:
        """The most likely label of each image; see `features` for the images."""
        return self._in_batches(self, images).argmax(dim=1)

    @torch.no_grad()
    def _in_batches(self, network: nn.Module, images: Tensor) -> Tensor:
        """The output of a part of the network, to which images go a batch at a time."""
        shape = tuple(images.shape[1:])
        if shape != self.shape:
            raise ValueError(f"the classifier reads images of shape {self.shape}, got {shape}")
        device = self.head.weight.device
        batches = as_uint8(images).split(500)
        return torch.cat([network(to_float(batch.to(device))) for batch in batches])

    def save(self, folder: Path) -> None:
        """Write model.safetensors and, last, classifier.json into a folder."""
        weights = self.state_dict()
        write_whole(folder / "model.safetensors", lambda draft: save_file(weights, draft))
        facts = {"shape": self.shape, "classes": self.classes, "accuracy": self.accuracy}
        write_text(folder / "classifier.json", json.dumps(facts, indent=2))

    @classmethod
    def load(cls, folder: Path) -> "Classifier":
        """Read a classifier from a folder that `save` wrote, in evaluation mode.

        Raises:
            FileNotFoundError: If it is not there.
            ValueError: If a file is damaged.
        """
        text = (folder / "classifier.json").read_text()
        try:
            facts = json.loads(text)
            # On the meta device no weights are drawn, so the caller's generator stays put.
            with torch.device("meta"):
                classifier = cls(tuple(facts["shape"]), tuple(facts["classes"]))
            classifier.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
            classifier.accuracy = float(facts["accuracy"])
        except Exception as error:
            raise ValueError(
                f"the classifier in {folder} is damaged ({reason_of(error)}); delete the folder "
                "to train it again"
            ) from error
        return classifier.eval()


def check_classes(data: ImageData) -> None:
    """Raise ValueError if the training images belong to a single class."""
    present = len(data.train.labels.unique())
    if len(data.classes) < 2 or present < 2:
        raise ValueError(
            f"a classifier needs training images of two or more classes; {data.name} has "
            f"{present} ({', '.join(data.classes)})"
        )


def train_classifier(
    data: ImageData,
    *,
    root: str | Path | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Classifier:
    """Train a classifier, or open it if it was trained before.

    The validation images choose the best of its weights; the test images only measure its accuracy.
    The caller's random generators are left as they are.

    Args:
        data: Images of two or more classes.
        root: See `data_root`. The classifier is kept in its folder classifiers.
        device: Where to train, and where the result lies.
        seed: The seed of the weights and of the order of the images, from 0.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the training images belong to a single class, or for a seed out of range.
    """
    check_classes(data)
    seed = as_seed(seed)
    device = choose_device(device)
    told = [CLASSIFIER_FORMAT, STEPS, PASSES, BATCH_SIZE, LR, VALIDATE_EVERY, seed]
    digest = digest_of([*told, data.fingerprint])
    folder, is_there = find_result(root, "classifiers", f"{safe_name(data.name)}-{digest}")
    if not is_there:
        _fit(data.to(device), seed, progress).save(folder)
    return Classifier.load(folder).to(device)


def _fit(data: ImageData, seed: int, progress: bool) -> Classifier:
    """Train with Adam and a one-cycle learning rate, and keep the weights that validate best."""
    with isolated_rng(seed):
        shape = (data.channels, *data.size)
        classifier = Classifier(shape, data.classes).to(data.device)
    count = len(data.train)
    batch_size = min(BATCH_SIZE, count)
    steps = max(STEPS, PASSES * count // batch_size)
    optimizer = torch.optim.Adam(classifier.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)

    validation = data.validation.loaded()
    best = 0.0
    weights = classifier.state_dict()
    for step in tqdm(range(steps), desc="classifier", unit="step", disable=not progress):
        chosen = batch_indices(count, batch_size, seed, step, data.device)
        logits = classifier.train()(data.train.batch(chosen))
        loss = cross_entropy(logits, data.train.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        # The best weights are chosen on the validation images, so that the test images stay unseen.
        if (step + 1) % VALIDATE_EVERY == 0 or step + 1 == steps:
            accuracy = _accuracy(classifier.eval(), validation)
            if accuracy >= best:
                best = accuracy
                weights = copy.deepcopy(classifier.state_dict())

    classifier.load_state_dict(weights)
    classifier.accuracy = _accuracy(classifier, data.test)
    return classifier


def _accuracy(classifier: Classifier, split: ImageSplit) -> float:
    """The share of the images of a split that the classifier assigns their label."""
    images = split.batch(torch.arange(len(split)))
    return label_agreement(classifier, images, split.labels)
