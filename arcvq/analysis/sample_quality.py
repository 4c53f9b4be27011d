"""How realistic, how varied and how new generated images are, compared with real ones.

Images (N, C, H, W) are uint8, or floats in [-1, 1]. Floats are rounded to 8 bits first, so that a
sample is measured as it would be stored. Features (N, F) may come from any network; all arithmetic
on them is float64.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Float, Int, Integer, Real, UInt8
from torch import Tensor

from arcvq.geometry import usage_counts
from arcvq.images import to_float, to_uint8
from arcvq.metrics import pretrained_weights
from arcvq.runtime.checks import as_integers, check_finite
from arcvq.runtime.precision import as_float64

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
BLOCK_ENTRIES = 1 << 22  # of a distance matrix that are held at once: 32 MiB


Images = Real[Tensor, "_N C H W"]  # uint8, or floats in [-1, 1]
Features = Float[Tensor, "_N F"]


@runtime_checkable
class ImageClassifier(Protocol):
    """What the measures need of a classifier, such as `arcvq.analysis.classifier.Classifier`.

    Attributes:
        accuracy: The share of test images that it classifies correctly.
    """

    accuracy: float

    def features(self, images: Images) -> Features:
        """The features of each image."""

    def predict(self, images: Images) -> Int[Tensor, " N"]:
        """The most likely label of each image."""


class PixelFeatures:
    """Pixels in place of a classifier's features, for images that all belong to one class.

    Attributes:
        accuracy: 1, since there is only one label.
    """

    accuracy = 1.0

    def features(self, images: Images) -> Features:
        """The pixels of each image, in [-1, 1]."""
        return to_float(as_uint8(images)).flatten(1)

    def predict(self, images: Images) -> Int[Tensor, " N"]:
        """The only label, 0, for each image."""
        return torch.zeros(len(images), dtype=torch.int64, device=images.device)


def as_uint8(images: Images) -> UInt8[Tensor, "N C H W"]:
    """Convert images to uint8, rounding floats in [-1, 1].

    Raises:
        ValueError: For another shape, no images, NaN or infinity, and integers other than uint8.
    """
    if images.ndim != 4 or not images.numel():
        shape = tuple(images.shape)
        raise ValueError(f"images must be a (N, C, H, W) tensor that is not empty, got {shape}")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point() or not images.isfinite().all():
        raise ValueError(
            f"images must be uint8, or finite floats in [-1, 1], got {images.dtype} "
            f"from {images.min()} to {images.max()}"
        )
    return to_uint8(images)


def frechet_distance(features: Features, others: Features) -> float:
    """The Frechet distance of two Gaussians fitted to two sets of features.

    |m - n|^2 + tr(S + T - 2 (S T)^(1/2)) for the Gaussians (m, S) and (n, T) (Dowson and Landau
    1982), in squared units of the features. This is FID only if the features are Inception's
    (`inception_fid`). It is larger for small sets, so compare only values of equal N and M.

    With S = A'A and T = B'B the last trace is the sum of the singular values of AB'. That needs no
    matrix root and holds for singular S and T.
    """
    features, others = _as_float64(features, others)
    mean, root = _fit_gaussian(features)
    other_mean, other_root = _fit_gaussian(others)
    # The sum of the squares of a root is the trace of its covariance.
    between_means = (mean - other_mean).square().sum()
    apart = between_means + root.square().sum() + other_root.square().sum()
    distance = apart - 2 * torch.linalg.svdvals(root @ other_root.T).sum()
    # Rounding can leave equal sets a little below 0.
    return max(0.0, distance.item())


def _fit_gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and a root R of the unbiased covariance R'R."""
    mean = features.mean(dim=0)
    # R is taken from the data and not from the covariance, which would lose half of the digits.
    scaled = (features - mean) / (len(features) - 1) ** 0.5
    return mean, torch.linalg.qr(scaled, mode="r").R


def precision_recall(
    real: Features, generated: Features, neighbors: int = 3
) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2).

    Precision is the share of generated points that lie in a ball around some real point; recall is
    the reverse. The ball of a point reaches to its k-th nearest neighbor in its own set. Both
    values depend on N and M, which the paper keeps equal.

    Args:
        real: Features of real images.
        generated: Features of generated images.
        neighbors: The k above, from 1 to one less than the size of the smaller set.
    """
    real, generated = _as_float64(real, generated)
    most = min(len(real), len(generated)) - 1
    if not 1 <= neighbors <= most:
        raise ValueError(
            f"neighbors must be 1 to {most}, one less than the smaller of {len(real)} real and "
            f"{len(generated)} generated points, got {neighbors}"
        )
    return _coverage(generated, real, neighbors), _coverage(real, generated, neighbors)


def _coverage(points: Tensor, centers: Tensor, neighbors: int) -> float:
    """The share of points that lie in the ball of some center."""

    def radius(distances: Tensor) -> Tensor:
        # One more than `neighbors`, because each center is its own nearest at distance 0.
        return distances.kthvalue(neighbors + 1, dim=1).values

    radii = _map_distances(radius, centers, centers)
    covered = _map_distances(lambda distances: (distances <= radii).any(1), points, centers)
    return covered.double().mean().item()


def _map_distances(
    function: Callable[[Tensor], Tensor], points: Tensor, others: Tensor, fast: bool = False
) -> Tensor:
    """The results of a function on the rows of the N x M distances, which are never held whole."""
    # The fast mode rounds; without it, equal points are at a distance of exactly 0.
    mode = "use_mm_for_euclid_dist" if fast else "donot_use_mm_for_euclid_dist"
    blocks = points.split(max(1, BLOCK_ENTRIES // len(others)))
    return torch.cat([function(torch.cdist(x, others, compute_mode=mode)) for x in blocks])


@dataclass(frozen=True)
class NearestTraining:
    """How far samples and held-out data are from their nearest training points.

    A model that generalizes is as far from its training data as held-out data is; a model that
    memorizes is nearer. Blurred or average samples are near to everything as well, so read these
    measures beside precision and recall.

    Attributes:
        distances: From each sample to its nearest training point.
        held_out: From each held-out point to its nearest training point.
        indices: The nearest training point of each sample.
    """

    distances: Float[Tensor, " N"]
    held_out: Float[Tensor, " M"]
    indices: Int[Tensor, " N"]

    @property
    def median_ratio(self) -> float:
        """The median distance of samples over that of held-out data: 1 if new, 0 if copied."""
        return (self.distances.quantile(0.5) / self.held_out.quantile(0.5)).item()

    @property
    def nearer(self) -> float:
        """The probability that a sample is nearer than held-out data: 0.5 if new, 1 if copied.

        Ties count half. This is the Mann-Whitney statistic of the data-copying test (Meehan et al.
        2020, arXiv 2004.05675), over the whole space.
        """
        ordered = self.held_out.sort().values
        # For each sample, how many held-out distances are smaller, and how many are not larger.
        below = torch.searchsorted(ordered, self.distances)
        up_to = torch.searchsorted(ordered, self.distances, right=True)
        return 1 - (below + up_to).double().mean().item() / 2 / len(ordered)

    @property
    def near_copies(self) -> float:
        """The share of samples that are copies, or nearer than 99% of held-out data.

        If new, it is about (1 + 0.01 (M - 1)) / (M + 1) for M held-out points, since so few hardly
        have a percentile: 0.057 for 20, 0.012 for 500, toward 0.01 for many.
        """
        # Where held-out data has copies in the training data, the percentile itself may be 0.
        is_near = (self.distances < self.held_out.quantile(0.01)) | (self.distances == 0)
        return is_near.double().mean().item()


def nearest_training(generated: Features, held_out: Features, train: Features) -> NearestTraining:
    """Find the nearest training points, by Euclidean distance, of samples and of held-out data.

    Args:
        generated: Features or flattened pixels of generated images.
        held_out: The same of real images that the generator did not see.
        train: The same of its training images.
    """
    generated, held_out, train = _as_float64(generated, held_out, train)
    indices, distances = _nearest(generated, train)
    _, held_out_distances = _nearest(held_out, train)
    return NearestTraining(distances, held_out_distances, indices)


def _nearest(points: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """The index of the nearest training point of each point, and its distance."""
    # Fast is 40 times as fast for pixels. The distance itself is then taken again, exactly.
    indices = _map_distances(lambda distances: distances.argmin(1), points, train, fast=True)
    return indices, (points - train[indices]).norm(dim=1)


def label_agreement(
    classifier: ImageClassifier, images: Images, labels: Integer[Tensor, " N"]
) -> float:
    """The share of images that a classifier assigns the label they were generated for.

    Compare it with the accuracy of the classifier on real images.
    """
    if len(labels) != len(images):
        raise ValueError(
            f"labels must hold one number for each of {len(images)} images, got {len(labels)}"
        )
    labels = as_integers(labels, "labels").cpu()
    return (classifier.predict(images).cpu() == labels).double().mean().item()


def usage_distance(
    generated: Integer[Tensor, "..."], real: Integer[Tensor, "..."], num_codes: int
) -> float:
    """The total variation distance between the usage of codes in samples and in data.

    This is half the summed difference of the usage shares, from 0 (equal) to 1 (no code in common).
    Having few tokens alone makes it larger than 0.

    Args:
        generated: Indices of generated images, in 0..num_codes - 1.
        real: Indices of real images, in the same range.
        num_codes: The size of the codebook.
    """
    if not generated.numel() or not real.numel():
        raise ValueError(
            f"usage needs indices on both sides, got {generated.numel()} generated and "
            f"{real.numel()} of data"
        )
    made = usage_counts(generated, num_codes).cpu()
    seen = usage_counts(real, num_codes).cpu()
    difference = made.double() / made.sum() - seen.double() / seen.sum()
    return difference.abs().sum().item() / 2


def describe_samples(
    classifier: ImageClassifier,
    *,
    real: Images,
    generated: Images,
    train: Images,
    labels: Integer[Tensor, " M"] | None = None,
) -> pd.Series:
    """Measure generated images in the features of a classifier and in pixels.

    Passing training images as `generated` shows what a perfect memory would score.

    Args:
        classifier: What gives features and predicts labels.
        real: Held-out images; for a fair comparison as many as were generated.
        generated: The images to measure.
        train: The images that the generator learned from.
        labels: The label that each image was generated for, if any.

    Returns:
        The Frechet distance, precision, recall, the three measures of `NearestTraining` in features
        and in pixels, and with labels the label agreement. The name of the series states the
        classifier's accuracy.
    """
    # In the order in which `nearest_training` takes them.
    features = [classifier.features(images) for images in (generated, real, train)]
    device = generated.device
    pixels = [as_float64(as_uint8(x).flatten(1).to(device)) for x in (generated, real, train)]

    precision, recall = precision_recall(features[1], features[0])
    measures = {
        "frechet_distance": frechet_distance(features[1], features[0]),
        "precision": precision,
        "recall": recall,
    }
    for prefix, points in (("", features), ("pixel_", pixels)):
        nearest = nearest_training(*points)
        measures[f"{prefix}median_ratio"] = nearest.median_ratio
        measures[f"{prefix}nearer"] = nearest.nearer
        measures[f"{prefix}near_copies"] = nearest.near_copies
    if labels is not None:
        measures["label_agreement"] = label_agreement(classifier, generated, labels)
    return pd.Series(measures, name=f"classifier features (accuracy {classifier.accuracy:.1%})")


def inception_fid(real: Images, generated: Images) -> float:
    """FID (Heusel et al. 2017): the Frechet distance of Inception features.

    The 2,048 features are those of images resized to 299 x 299, in the network of torchmetrics with
    the weights of torch-fidelity; gray images become RGB with equal channels. Published values use
    10,000 images or more. Nothing is downloaded.

    Raises:
        ModuleNotFoundError: If torch-fidelity is missing.
        FileNotFoundError: If its weights are missing. Both messages say how to get them.
    """
    return frechet_distance(inception_features([real]), inception_features([generated]))


def inception_features(batches: Iterable[Images]) -> Float[Tensor, "N F"]:
    """The Inception features of `inception_fid`, for images that come in batches.

    Args:
        batches: The images, at least one batch of them.

    Raises:
        ModuleNotFoundError: As `inception_fid` does.
        FileNotFoundError: As `inception_fid` does.
    """
    network = inception()
    features = []
    for images in batches:
        network.to(images.device)
        for some in as_uint8(images).expand(-1, 3, -1, -1).split(64):
            features.append(network(some.contiguous()))
    return torch.cat(features)


def inception() -> Any:
    """The Inception network of `inception_fid`, its weights read from the folder of torch.hub."""
    if find_spec("torch_fidelity") is None:
        raise ModuleNotFoundError(
            "FID needs the Inception network of a package that is not installed: "
            "pip install torch-fidelity"
        )
    weights = pretrained_weights(INCEPTION_URL, "FID")
    from torchmetrics.image.fid import NoTrainInceptionV3

    return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))


def _as_float64(*sets: Tensor) -> list[Tensor]:
    """Check sets of features and convert them to float64."""
    shapes = [tuple(points.shape) for points in sets]
    too_small = any(len(shape) != 2 or shape[0] < 2 for shape in shapes)
    if too_small or len({shape[1] for shape in shapes}) > 1:
        got = " and ".join(map(str, shapes))
        raise ValueError(f"features must be (N, F) with 2 or more rows and the same F, got {got}")
    for points in sets:
        check_finite(points, "features")
    return [as_float64(points) for points in sets]
