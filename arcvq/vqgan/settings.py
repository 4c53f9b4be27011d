"""What a VQGAN is built of and trained on, in one record that experiments can vary."""

import dataclasses
from typing import Any

from arcvq.quantizers import Quantizer
from arcvq.runtime.checks import check_flag, use_python_numbers
from arcvq.vqgan.fitting import VQGANLosses, check_averaging
from arcvq.vqgan.network import VQGAN, check_sizes

USUAL_LOSSES = VQGANLosses()


@dataclasses.dataclass(frozen=True)
class VQGANSettings:
    """The network and the losses of a VQGAN; see `VQGAN` and `fit_vqgan`.

    Attributes:
        channels: Channels at the resolution of the images, a multiple of 4.
        multipliers: Channels at each resolution as a multiple of `channels`.
        blocks: Residual blocks at each resolution.
        attention: Whether the blocks of the lowest resolution have attention.
        normalized: Whether there is group normalization.
        losses: The losses besides the absolute error and that of the quantizer.
        averaging: What the averaged weights keep of themselves at each step.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    blocks: int = 2
    attention: bool = True
    normalized: bool = True
    losses: VQGANLosses = USUAL_LOSSES
    averaging: float = 0.999

    def __post_init__(self):
        use_python_numbers(self)
        check_sizes(self.channels, self.multipliers, self.blocks)
        check_flag(attention=self.attention, normalized=self.normalized)
        check_averaging(self.averaging)
        if not isinstance(self.losses, VQGANLosses):
            raise ValueError(f"losses is {self.losses!r}; it must be a VQGANLosses")
        # A list would have no hash, and numbers of NumPy cannot be written as JSON.
        object.__setattr__(self, "multipliers", tuple(map(int, self.multipliers)))

    @property
    def downsample(self) -> int:
        """Pixels along a side of what becomes one token."""
        return 2 ** (len(self.multipliers) - 1)

    def model(self, image_channels: int, quantizer: Quantizer) -> VQGAN:
        """The untrained model around a quantizer."""
        return VQGAN(
            image_channels,
            quantizer,
            channels=self.channels,
            multipliers=self.multipliers,
            blocks=self.blocks,
            attention=self.attention,
            normalized=self.normalized,
        )

    def config(self) -> dict[str, Any]:
        """The settings as a plain dict, for `from_config` and JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "VQGANSettings":
        """Build the settings that `config` describes."""
        losses = VQGANLosses(**config["losses"])
        return cls(**config | {"losses": losses, "multipliers": tuple(config["multipliers"])})
