"""Variants of our quantizers to compare them with: a naive implementation and two ablations."""

from torch.nn.functional import normalize, one_hot

from arcvq.ops import reference
from arcvq.quantizers import CosineQuantizer, Quantizer, SphericalQuantizer


class UnitStartQuantizer(Quantizer):
    """Plain VQ whose codes start on the unit sphere, where those of the cosine quantizer start.

    From plain VQ to the cosine quantizer two things change: the start of the codes, and the lookup
    by angle. Here only the start does.
    """

    initial_codebook = CosineQuantizer.initial_codebook


class PlainSphericalQuantizer(SphericalQuantizer):
    """SAMP as one writes it first: with whole matrices and a one-hot lookup.

    It takes the same training steps as `SphericalQuantizer` and shows what that one saves in time
    and memory. It works in one process.
    """

    def quantize(self, latents):
        codebook = self.codebook.to(latents.dtype)
        if not self.training:  # no code moves
            codebook = codebook.detach()
        cosines = normalize(latents, dim=1) @ normalize(codebook, dim=1).T
        indices = cosines.argmax(1)
        if self.training:
            self.observe(latents.detach(), indices)
        codes = one_hot(indices, self.num_codes).to(latents.dtype) @ codebook
        loss, terms = self.compute_loss(latents, codes)
        codes = latents + (codes - latents).detach()  # straight-through gradient
        return codes, indices, loss, terms

    def margin_loss(self, latents, codes):
        samp = self.active_samp()
        return reference.margin_loss(
            latents,
            codes.detach().to(latents.dtype),
            samp.margin,
            samp.scale,
            min(samp.top_k, len(latents)),
        )


class UndetachedQuantizer(SphericalQuantizer):
    """SAMP without its stop-gradient: the margin loss moves the codes too.

    An ablation of the paper. It holds several K x N matrices, and it trains in one process.
    """

    def margin_loss(self, latents, codes):
        # The parent's loss has a gradient to the latents alone. What is added here has the value 0
        # and the gradient to the codes that the stop-gradient keeps back.
        samp = self.active_samp()
        moving = reference.margin_loss(
            latents.detach(),
            codes.to(latents.dtype),
            samp.margin,
            samp.scale,
            min(samp.top_k, len(latents)),
        )
        return super().margin_loss(latents, codes) + (moving - moving.detach())
