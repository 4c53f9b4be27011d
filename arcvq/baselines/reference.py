"""Variants of `SphericalQuantizer` to compare it with: a naive implementation and an ablation."""

from torch.nn.functional import mse_loss, normalize, one_hot

from arcvq.ops import reference
from arcvq.quantizers import Quantized, SphericalQuantizer


class PlainSphericalQuantizer(SphericalQuantizer):
    """SAMP as one writes it first: with whole matrices and a one-hot lookup.

    It takes the same training steps as `SphericalQuantizer` and shows what that one saves in time
    and memory. It works in one process, and not for latents of half precision.
    """

    def forward(self, latents):
        samp = self.active_samp()
        grid = latents.permute(0, 2, 3, 1)
        flat = grid.reshape(-1, self.dim)

        cosines = normalize(flat, dim=1) @ normalize(self.codebook, dim=1).T
        indices = cosines.argmax(1)
        chosen = one_hot(indices, self.num_codes).to(flat.dtype)
        codes = chosen @ self.codebook
        self.counts += chosen.sum(0).long()

        margin_loss = reference.margin_loss(
            flat, self.codebook.detach(), samp.margin, samp.scale, samp.top_k
        )
        weight = samp.weight.value(self.step) if samp.weight else 0.0
        vq_loss = mse_loss(codes, flat.detach()) + self.beta * mse_loss(flat, codes.detach())

        codes = flat + (codes - flat).detach()  # straight-through gradient
        return Quantized(
            codes=codes.reshape(grid.shape).permute(0, 3, 1, 2),
            indices=indices.reshape(grid.shape[:3]),
            loss=vq_loss + weight * margin_loss,
            losses={"margin": margin_loss.detach()},
        )


class UndetachedQuantizer(SphericalQuantizer):
    """SAMP without its stop-gradient: the margin loss moves the codes too.

    An ablation of the paper. It holds several K x N matrices, and it trains in one process.
    """

    def compute_loss(self, latents, codes):
        loss, terms = super().compute_loss(latents, codes)
        samp = self.active_samp()
        if not self.training or samp.weight is None:
            return loss, terms

        # The parent has counted the value and its gradient to the latents. What is added here has
        # the value 0 and the gradient to the codes that the stop-gradient keeps back.
        moving = reference.margin_loss(
            latents.detach(),
            self.codebook,
            samp.margin,
            samp.scale,
            top_k=min(samp.top_k, len(latents)),
        )
        weight = samp.weight.value(self.step, self.batch_usage())
        return loss + weight * (moving - moving.detach()), terms
