"""Memory, time and difference of `reconstruct_large` beside `reconstruct`, on a large photograph.

    python -m benchmarks.large_images vqgan strips
    python -m benchmarks.large_images vqgan both --channels 8 --no-attention

The photograph is scikit-learn's "china", enlarged; the weights are random. The peak is that of the
whole process, so only the first of `both` has a peak of its own.
"""

import argparse
import resource
import time
from collections.abc import Callable

import torch
from torch.nn.functional import interpolate, pad

from arcvq import VQGAN, VQVAE, SphericalQuantizer
from arcvq.autoencoder import Autoencoder
from arcvq.images import photograph, to_float


def reconstruct_whole(model: Autoencoder, image: torch.Tensor) -> torch.Tensor:
    """What `reconstruct_large` computes, without strips."""
    height, width = image.shape[2:]
    factor = model.downsample
    extended = pad(image, (0, -width % factor, 0, -height % factor), mode="reflect")
    return model.reconstruct(extended)[:, :, :height, :width]


def measured(name: str, way: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Reconstruct in one way, and print the time and the peak of memory."""
    begin = time.perf_counter()
    cpu_begin = time.process_time()
    result = way()
    seconds = time.perf_counter() - begin
    cpu_seconds = time.process_time() - cpu_begin
    # Linux counts in units of 1,024 bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{name}: {seconds:.0f} s ({cpu_seconds:.0f} s of a CPU), peak {peak:.2f} GB")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=["vqvae", "vqgan"])
    parser.add_argument("ways", choices=["strips", "whole", "both"])
    parser.add_argument("--channels", type=int, default=128, help="of the VQGAN")
    parser.add_argument("--no-attention", dest="attention", action="store_false")
    parser.add_argument("--height", type=int, default=1500)
    parser.add_argument("--width", type=int, default=2000)
    parser.add_argument("--rows", type=int, help="of a strip; by default as they follow from width")
    options = parser.parse_args()

    torch.manual_seed(0)
    if options.model == "vqvae":
        model: Autoencoder = VQVAE(3, SphericalQuantizer(512, 64))
    else:
        quantizer = SphericalQuantizer(1024, 16)
        model = VQGAN(3, quantizer, options.channels, attention=options.attention)
    model.eval()
    size = (options.height, options.width)
    original = to_float(photograph("china"))
    image = interpolate(original, size, mode="bicubic", antialias=True).clamp(-1, 1)

    ways = {
        "strips": lambda: model.reconstruct_large(image, options.rows),
        "whole": lambda: reconstruct_whole(model, image),
    }
    if options.ways == "both":
        strips, whole = [measured(name, way) for name, way in ways.items()]
        print(f"largest difference: {(strips - whole).abs().max():.1e}")
    else:
        measured(options.ways, ways[options.ways])


if __name__ == "__main__":
    main()
