"""How good, how varied and how new generated images are, beside real ones.

Images (N, C, H, W) are uint8, or floats in [-1, 1] that are rounded to 8 bits first, so that a sample is measured as
it would be stored. Features (N, F) are rows of any network; all arithmetic on them is float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Real, UInt8
from torch import Tensor
from tqdm.auto import tqdm

from arcvq.geometry import usage_counts
from arcvq.images import to_uint8
from arcvq.metrics import pretrained_weights

INCEPTION = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"


@runtime_checkable
class Reader(Protocol):
    """What the measures ask of a classifier: `arcvq.analysis.classifier.TrainedClassifier` is one."""

    accuracy: float

    def features(self, images: Real[Tensor, "N C H W"]) -> Float[Tensor, "N F"]: ...

    def predict(self, images: Real[Tensor, "N C H W"]) -> Int[Tensor, " N"]: ...


def stored(images: Real[Tensor, "N C H W"]) -> UInt8[Tensor, "N C H W"]:
    """The images as uint8. Raises ValueError for another shape, for no images, for NaN and for other integers."""
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"images must be a (N, C, H, W) tensor that is not empty, got {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point() or not images.isfinite().all():
        raise ValueError(f"images must be uint8, or finite floats in [-1, 1], got {images.dtype} "
                         f"from {images.min()} to {images.max()}")
    return to_uint8(images)


def frechet_distance(features: Float[Tensor, "N F"], others: Float[Tensor, "M F"]) -> float:
    """|m - n|^2 + tr(S + T - 2 (S T)^(1/2)) of the Gaussians (m, S), (n, T) fitted to two sets (Dowson & Landau 1982).

    From 0, in squared units of the features, and larger for small sets: compare only figures of equal N and M. It is
    FID when the features are Inception's, and only then (`inception_fid`). With S = A'A and T = B'B the last trace is
    the sum of the singular values of AB', which needs no matrix root and holds for singular S and T.
    """
    features, others = _checked(features, others)
    (mean, root), (other_mean, other_root) = _gaussian(features), _gaussian(others)
    apart = (mean - other_mean).square().sum() + root.square().sum() + other_root.square().sum()
    return max(0.0, (apart - 2 * torch.linalg.svdvals(root @ other_root.T).sum()).item())


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean m and a root R of the unbiased covariance R'R, taken from the data, so that no digits are lost."""
    mean = features.mean(dim=0)
    return mean, torch.linalg.qr((features - mean) / (len(features) - 1) ** 0.5, mode="r").R


def precision_recall(real: Float[Tensor, "N F"], generated: Float[Tensor, "M F"],
                     neighbors: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1-2), each 0 to 1.

    Precision: the share of generated points inside a ball around some real point; recall: the reverse. A ball reaches
    to its point's neighbors-th nearest neighbour in its own set, 1 to one less than the smaller set. Both depend on N
    and M, which the paper keeps equal. Memory stays bounded: distances are taken in blocks.
    """
    real, generated = _checked(real, generated)
    if not 1 <= neighbors < min(len(real), len(generated)):
        raise ValueError(f"neighbors must be 1 to {min(len(real), len(generated)) - 1}, one less than the smaller of "
                         f"{len(real)} real and {len(generated)} generated points, got {neighbors}")
    precision, recall = _covered(generated, real, neighbors), _covered(real, generated, neighbors)
    return precision.double().mean().item(), recall.double().mean().item()


def _covered(points: Tensor, centres: Tensor, neighbors: int) -> Bool[Tensor, " N"]:
    # one more than `neighbors`, because each centre is its own nearest, at distance 0
    radii = torch.cat([block.kthvalue(neighbors + 1, dim=1).values for block in _distances(centres, centres)])
    return torch.cat([(block <= radii).any(dim=1) for block in _distances(points, centres)])


def _distances(points: Tensor, others: Tensor, mode: str = "donot_use_mm_for_euclid_dist") -> Iterator[Tensor]:
    """The rows of the N x M distances, 32 MiB at once; the default mode gives equal points exactly 0."""
    for block in points.split(max(1, 2**22 // len(others))):
        yield torch.cdist(block, others, compute_mode=mode)


@dataclass(frozen=True)
class NearestTraining:
    """Distances to the nearest training point, of samples (N,) and of held-out data (M,), and which one it is (N,).

    A model that generalises is as far from its training data as data it never saw; one that memorises is nearer.
    Blurred or average samples are near to everything as well: read these beside precision and recall.
    """

    distances: Float[Tensor, " N"]
    held_out: Float[Tensor, " M"]
    indices: Int[Tensor, " N"]

    @property
    def median_ratio(self) -> float:
        """Median distance of the samples over that of held-out data: about 1 when new, 0 when copied."""
        return (self.distances.quantile(0.5) / self.held_out.quantile(0.5)).item()

    @property
    def nearer(self) -> float:
        """The chance that a sample is nearer than held-out data, ties half: 0.5 when new, 1 when copied.

        The Mann-Whitney statistic of the data-copying test (Meehan et al. 2020, arXiv 2004.05675), over all of space.
        """
        ordered = self.held_out.sort().values
        below, up_to = (torch.searchsorted(ordered, self.distances, right=right) for right in (False, True))
        return 1 - (below + up_to).double().mean().item() / 2 / len(ordered)

    @property
    def near_copies(self) -> float:
        """The share of samples nearer than 99% of held-out data are (their 1st percentile): about 0.01 when new."""
        return (self.distances < self.held_out.quantile(0.01)).double().mean().item()


def nearest_training(generated: Float[Tensor, "N F"], held_out: Float[Tensor, "M F"],
                     train: Float[Tensor, "T F"]) -> NearestTraining:
    """Nearest training points by Euclidean distance, of samples and of held-out data: features, or flattened pixels."""
    generated, held_out, train = _checked(generated, held_out, train)
    indices = _nearest(generated, train)
    return NearestTraining((generated - train[indices]).norm(dim=1),
                           (held_out - train[_nearest(held_out, train)]).norm(dim=1), indices)


def _nearest(points: Tensor, train: Tensor) -> Int[Tensor, " N"]:
    fast = "use_mm_for_euclid_dist"  # 40 times as fast for pixels; the distance itself is then taken exactly
    return torch.cat([block.argmin(dim=1) for block in _distances(points, train, fast)])


def label_agreement(classifier: Reader, images: Real[Tensor, "N C H W"], labels: Int[Tensor, " N"]) -> float:
    """The share of images that the classifier reads as the label they were made for; compare it with its accuracy."""
    if len(labels) != len(images):
        raise ValueError(f"labels must hold one number for each of {len(images)} images, got {len(labels)}")
    return (classifier.predict(images).cpu() == labels.cpu()).double().mean().item()


@dataclass(frozen=True)
class UsageDistance:
    """How far the usage of codes in samples is from that in data.

    total_variation: half the summed difference of the usage shares, 0 (equal) to 1 (no code in common); few tokens
    alone make it larger than 0. codes_unseen: codes that samples use and data never does.
    """

    total_variation: float
    codes_generated: int
    codes_data: int
    codes_unseen: int


def usage_distance(generated: Int[Tensor, "..."], data: Int[Tensor, "..."], num_codes: int) -> UsageDistance:
    """Compare the usage of codes in generated indices and in those of data, each in 0..num_codes - 1."""
    if not generated.numel() or not data.numel():
        raise ValueError(f"usage needs indices on both sides, got {generated.numel()} generated and {data.numel()} "
                         "of data")
    made, seen = (usage_counts(indices, num_codes).cpu() for indices in (generated, data))
    variation = (made.double() / made.sum() - seen.double() / seen.sum()).abs().sum().item() / 2
    used, known = made > 0, seen > 0
    return UsageDistance(variation, int(used.sum()), int(known.sum()), int((used & ~known).sum()))


def describe_samples(classifier: Reader, *, real: Real[Tensor, "N C H W"], generated: Real[Tensor, "M C H W"],
                     train: Real[Tensor, "T C H W"], labels: Int[Tensor, " M"] | None = None) -> pd.Series:
    """All measures of generated images by the features of a classifier, whose accuracy the name of the series tells.

    real: held-out images, as many as were generated for fair figures. train: what the generator learned from. labels:
    what each image was made for. Training images in place of generated ones show what a perfect memory would score.
    """
    features = {part: classifier.features(images)
                for part, images in {"real": real, "generated": generated, "train": train}.items()}
    precision, recall = precision_recall(features["real"], features["generated"])
    measures = {"frechet_distance": frechet_distance(features["real"], features["generated"]),
                "precision": precision, "recall": recall}
    pixels = [stored(images).flatten(1).to(generated.device).double() for images in (generated, real, train)]
    for prefix, points in {"": (features["generated"], features["real"], features["train"]), "pixel_": pixels}.items():
        nearest = nearest_training(*points)
        measures |= {prefix + name: getattr(nearest, name) for name in ("median_ratio", "nearer", "near_copies")}
    if labels is not None:
        measures["label_agreement"] = label_agreement(classifier, generated, labels)
    return pd.Series(measures, name=f"classifier features (accuracy {classifier.accuracy:.1%})")


def inception_fid(real: Real[Tensor, "N C H W"], generated: Real[Tensor, "M C H W"], progress: bool = True) -> float:
    """FID (Heusel et al. 2017): `frechet_distance` of the 2,048 Inception features of images resized to 299 x 299.

    The network is torchmetrics' with torch-fidelity's weights; images come straight from tensors, grey as equal RGB.
    Published figures take 10,000 images or more. Nothing is fetched: raises ModuleNotFoundError without torch-fidelity
    and FileNotFoundError without the weights, each saying how to get them.
    """
    network = _inception().to(real.device)
    features = []
    for images in (real, generated):
        blocks = tqdm(stored(images).to(real.device).split(64), desc="Inception", disable=not progress)
        features.append(torch.cat([network(block.expand(-1, 3, -1, -1).contiguous()) for block in blocks]))
    return frechet_distance(*features)


def _inception() -> Any:
    if find_spec("torch_fidelity") is None:
        raise ModuleNotFoundError("FID needs the Inception network of a package that is not installed: "
                                  "pip install torch-fidelity")
    weights = pretrained_weights(INCEPTION, "FID")
    from torchmetrics.image.fid import NoTrainInceptionV3

    return NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))


def _checked(*sets: Tensor) -> list[Tensor]:
    shapes = [tuple(points.shape) for points in sets]
    if any(len(shape) != 2 or shape[0] < 2 for shape in shapes) or len({shape[1] for shape in shapes}) > 1:
        raise ValueError(f"features must be (N, F) with 2 or more rows and the same F, got "
                         f"{' and '.join(map(str, shapes))}")
    if bad := sum(int((~points.isfinite()).any(dim=1).sum()) for points in sets):
        raise ValueError(f"{bad} of {sum(map(len, sets))} rows of features hold NaN or infinity; all must be finite")
    return [(points.cpu() if points.device.type == "mps" else points).detach().double() for points in sets]
