"""SAMP as one writes it first: whole matrices, for comparison; and without the stop-gradient, for an ablation."""


from torch.nn.functional import mse_loss, normalize, one_hot

from arcvq.ops.reference import plain_margin_loss
from arcvq.quantizers import Quantized, SphericalQuantizer


class PlainSphericalQuantizer(SphericalQuantizer):
    """SAMP as one writes it first: a one-hot matrix for the lookup and `plain_margin_loss`. For comparison only."""

    def forward(self, latents):
        flat = latents.permute(0, 2, 3, 1).reshape(-1, self.dim)
        indices = (normalize(flat, dim=1) @ normalize(self.codebook, dim=1).T).argmax(1)
        chosen = one_hot(indices, self.num_codes).to(flat.dtype)
        codes, samp = chosen @ self.codebook, self.settings()
        self.counts += chosen.sum(0).long()
        margin = plain_margin_loss(flat, self.codebook.detach(), samp.margin, samp.scale, samp.top_k)
        weight = samp.weight.value(self.step) if samp.weight else 0.0
        loss = mse_loss(codes, flat.detach()) + self.beta * mse_loss(flat, codes.detach()) + weight * margin
        codes = (flat + (codes - flat).detach()).reshape(latents.permute(0, 2, 3, 1).shape)
        return Quantized(codes.permute(0, 3, 1, 2), indices.reshape(codes.shape[:3]), loss, {"margin": margin.detach()})


class UndetachedQuantizer(SphericalQuantizer):
    """SAMP without its stop-gradient: the margin loss moves the codes too. For the paper's ablation only.

    Holds several K x N matrices, and trains in one process.
    """

    def losses(self, latents, codes):
        loss, terms = super().losses(latents, codes)
        samp = self.settings()
        if not self.training or samp.weight is None:
            return loss, terms
        top_k = min(samp.top_k, len(latents))
        moving = plain_margin_loss(latents.detach(), self.codebook, samp.margin, samp.scale, top_k)
        weight = samp.weight.value(self.step, self.batch_usage())
        return loss + weight * (moving - moving.detach()), terms  # the value is counted already
