"""What all priors over grids of tokens share: likelihood, sampling token by token, saving.

Tokens come in raster order: row by row, each from left to right. A prior gives the distribution
of each token given the tokens before it; the likelihood of a grid is the product of these.
"""

import dataclasses
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from arcvq.autoencoder import Autoencoder
from arcvq.images import ImageData
from arcvq.priors.tokens import FreeTokens, TiedTokens
from arcvq.runtime.checks import as_indices, check_whole
from arcvq.runtime.fingerprint import fingerprint
from arcvq.runtime.kinds import Kinds
from arcvq.runtime.model_folder import open_folder, save_folder
from arcvq.runtime.precision import HALF, at_least_float32
from arcvq.training import check_single

PRIOR_FORMAT = 1  # of saved priors; bump it when older versions would misread them

Labels = Integer[Tensor, " B"] | None  # one for each grid; None for a prior without classes


@dataclasses.dataclass
class State:
    """A batch of grids that is being sampled.

    Attributes:
        tokens: The grids; their first `position` tokens in raster order are set.
        labels: The class of each grid.
        position: The place of the next token.
        cache: What the prior keeps of the tokens that are set.
    """

    tokens: Int[Tensor, "B h w"]
    labels: Labels
    position: int = 0
    cache: Any = None


class Prior(nn.Module, Kinds):
    """The base class of priors.

    A subclass defines `predict`. To sample faster than by predicting whole grids again and again,
    it also overrides `start` and `next_logits`.

    Args:
        num_codes: K, at least 1.
        grid: Height and width of the grids, each from 1.
        classes: How many classes the labels have; 0 for a prior without labels.

    Attributes:
        codebook_fingerprint: Of the codebook whose tokens the prior was fitted to; None before, and
            where it was fitted to tokens alone, which do not tell. See `remember`.
        rounded_fingerprints: Of the same codebook in half precision.
    """

    def __init__(self, num_codes: int, grid: tuple[int, int], classes: int = 0):
        super().__init__()
        height, width = grid
        check_whole(1, num_codes=num_codes, grid_height=height, grid_width=width)
        check_whole(0, classes=classes)
        # Plain numbers, since those of NumPy cannot be written as JSON.
        self.num_codes = int(num_codes)
        self.grid = (int(height), int(width))
        self.classes = int(classes)
        self.codebook_fingerprint: str | None = None
        self.rounded_fingerprints: list[str] = []

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(chain(self.parameters(), self.buffers())).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(chain(self.parameters(), self.buffers())).dtype

    def predict(self, tokens: Int[Tensor, "B h w"], labels: Labels) -> Float[Tensor, "B h w K"]:
        """Compute what `forward` does, without its checks, which wait for the device.

        Tokens and labels are int64 here.
        """
        raise NotImplementedError

    def forward(
        self, tokens: Integer[Tensor, "B h w"], labels: Labels = None
    ) -> Float[Tensor, "B h w K"]:
        """Return the logits of each token given those before it.

        Raises:
            ValueError: For a wrong shape, token or label.
        """
        return self.predict(*self.as_tokens(tokens, labels))

    def log_likelihood(
        self, tokens: Integer[Tensor, "B h w"], labels: Labels = None
    ) -> Float[Tensor, " B"]:
        """Return ln p of each grid, in nats, worked out in float32 (in float64 for such a prior).

        Raises:
            ValueError: As `forward` does.
        """
        tokens, labels = self.as_tokens(tokens, labels)
        log_probabilities = at_least_float32(self.predict(tokens, labels)).log_softmax(-1)
        return log_probabilities.gather(-1, tokens[..., None]).sum((1, 2, 3))

    def start(self, batch: int, labels: Labels = None) -> State:
        """Return the state of `batch` grids of which no token is set.

        Raises:
            ValueError: For labels that do not fit.
        """
        labels = self.as_labels(labels, batch)
        tokens = torch.zeros(batch, *self.grid, dtype=torch.int64, device=self.device)
        return State(tokens, labels)

    @torch.no_grad()
    def next_logits(self, state: State) -> Float[Tensor, "B K"]:
        """Return the logits of the token at `state.position`."""
        row, column = divmod(state.position, self.grid[1])
        return self.predict(state.tokens, state.labels)[:, row, column]

    def append(self, state: State, tokens: Integer[Tensor, " B"]) -> None:
        """Set the token at `state.position` and go on to the next.

        Raises:
            ValueError: For a token that is no code.
        """
        tokens = as_indices(tokens, self.num_codes, "tokens")
        state.tokens.flatten(1)[:, state.position] = tokens
        state.position += 1

    def as_tokens(self, tokens: Tensor, labels: Tensor | None) -> tuple[Tensor, Labels]:
        """Return tokens and labels of any integer type as int64.

        Raises:
            ValueError: For tokens or labels that this prior cannot take.
        """
        self.check_shape(tokens)
        tokens = as_indices(tokens, self.num_codes, "tokens")
        return tokens, self.as_labels(labels, len(tokens))

    def check_shape(self, tokens: Tensor) -> None:
        """Raise ValueError for tokens that are not grids (B, h, w) of this prior."""
        height, width = self.grid
        if tokens.ndim != 3 or tokens.shape[1:] != self.grid:
            raise ValueError(
                f"tokens have shape {tuple(tokens.shape)}; this prior takes (B, {height}, {width})"
            )

    def as_labels(self, labels: Tensor | None, batch: int) -> Labels:
        """Return labels of any integer type as int64.

        Raises:
            ValueError: For labels that are missing, not expected, too many or out of range.
        """
        if labels is None and self.classes:
            raise ValueError(
                f"labels are missing; this prior has {self.classes} classes "
                "and needs one label each"
            )
        if labels is None:
            return None
        if not self.classes:
            raise ValueError(
                "labels were given, and this prior was made without classes; leave them out"
            )
        if labels.shape != (batch,):
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}; "
                f"they must be ({batch},), one for each grid"
            )
        return as_indices(labels, self.classes, "labels")

    def remember(self, codebook: Float[Tensor, "K D"]) -> None:
        """Keep the fingerprints of the codebook whose tokens the prior is fitted to.

        `fit_prior` does so. After `fit_tokens` or `count`, which see no codebook, call it so that
        the prior is refused for other models with as many codes.
        """
        self.codebook_fingerprint = fingerprint(codebook.float())
        self.rounded_fingerprints = [
            fingerprint(codebook.to(precision).float()) for precision in HALF
        ]

    def forget_codebook(self) -> None:
        """Drop the fingerprints, since the prior is now fitted to tokens of an unknown codebook."""
        self.codebook_fingerprint = None
        self.rounded_fingerprints = []

    def check_model(self, model: Autoencoder) -> None:
        """Raise ValueError if this prior is not one over the tokens of the model.

        The model may have been cast to another precision since the prior was fitted.
        """
        check_single(model.quantizer, "a prior")
        num_codes = model.quantizer.num_codes
        if self.num_codes != num_codes:
            raise ValueError(
                f"the prior has {self.num_codes} codes and the model {num_codes}; "
                "they must be the same"
            )
        if self.codebook_fingerprint is None:
            return
        codebook = model.quantizer.codebook
        if codebook.dtype in HALF and not self.rounded_fingerprints:
            return  # an earlier version saved the prior, so rounded codes cannot be told apart
        found = fingerprint(codebook.float())
        if found not in (self.codebook_fingerprint, *self.rounded_fingerprints):
            raise ValueError(
                "the prior belongs to another codebook "
                f"(fingerprint {self.codebook_fingerprint}) than the model's ({found}); "
                "fit a new prior on this model"
            )

    def check_grid(self, model: Autoencoder, data: ImageData) -> None:
        """Raise ValueError if the tokens of these images come in another grid than this prior's."""
        height, width = data.size
        grid = (height // model.downsample, width // model.downsample)
        if grid != self.grid:
            raise ValueError(
                f"the prior's grid is {self.grid} and the tokens of {data.name} have {grid}; "
                "they must be the same"
            )

    def config(self) -> dict[str, Any]:
        """Return what `from_config` needs to build this prior again, without its weights."""
        return {
            "kind": self.kind,
            "num_codes": self.num_codes,
            "grid": list(self.grid),
        }

    @staticmethod
    def from_config(config: dict[str, Any], codebook: Tensor | None = None) -> "Prior":
        """Build the prior that `config` describes, with new weights.

        Args:
            config: What `config` returned.
            codebook: The codes (K, D) of a prior with tied tokens, which are not in its config.

        Raises:
            ValueError: For an unknown kind, or a codebook that is missing, of another shape or not
                expected.
        """
        fields = dict(config)
        prior_class = Prior.of_kind(fields.pop("kind", None), "prior")
        codebook_dim = fields.pop("codebook_dim", None)
        wanted = None if codebook_dim is None else (fields["num_codes"], codebook_dim)
        shape = None if codebook is None else tuple(codebook.shape)
        if shape != wanted:
            raise ValueError(f"codebook has shape {shape}; the config asks for {wanted}")
        if codebook is not None:
            fields["codebook"] = codebook
        fields["grid"] = tuple(fields["grid"])
        return prior_class(**fields)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json into a folder."""
        config = {
            "format": PRIOR_FORMAT,
            "codebook_fingerprint": self.codebook_fingerprint,
            "rounded_fingerprints": self.rounded_fingerprints,
            **self.config(),
        }
        save_folder(folder, self, config)

    @staticmethod
    def from_pretrained(folder: str | Path) -> "Prior":
        """Open the prior in a folder that `save_pretrained` wrote, in evaluation mode.

        Weights in half precision open in float32, and those in float64 stay so.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If a file is damaged or of another version.
        """
        return open_folder(folder, _from_saved_config, "prior")


def _from_saved_config(config: dict[str, Any]) -> Prior:
    """Build a prior from the config in a folder, which has more in it than `Prior.config`."""
    if config.pop("format", None) != PRIOR_FORMAT or "codebook_fingerprint" not in config:
        raise ValueError(f"it is no prior of format {PRIOR_FORMAT}, the one that this arcvq reads")
    codebook_fingerprint = config.pop("codebook_fingerprint")
    rounded_fingerprints = config.pop("rounded_fingerprints", [])
    codebook = None
    if config.get("codebook_dim") is not None:  # the directions of the codes come with the weights
        codebook = torch.zeros(config["num_codes"], config["codebook_dim"])
    prior = Prior.from_config(config, codebook)
    prior.codebook_fingerprint = codebook_fingerprint
    prior.rounded_fingerprints = rounded_fingerprints
    return prior


class NetworkPrior(Prior):
    """A prior that is a network; a subclass defines `features`.

    Args:
        num_codes: See `Prior`.
        grid: See `Prior`.
        classes: See `Prior`.
        codebook: The codes (K, D) to whose directions the tokens are tied (see `TiedTokens`);
            None for free tokens.
        width: C, the channels of the network.
    """

    def __init__(
        self,
        num_codes: int,
        grid: tuple[int, int],
        classes: int,
        codebook: Tensor | None,
        width: int,
    ):
        super().__init__(num_codes, grid, classes)
        check_whole(1, width=width)
        self.width = int(width)
        self.tokens: FreeTokens | TiedTokens
        if codebook is None:
            self.tokens = FreeTokens(num_codes, width)
            return
        if codebook.ndim != 2 or len(codebook) != num_codes:
            raise ValueError(
                f"codebook has shape {tuple(codebook.shape)}; it must be ({num_codes}, D)"
            )
        self.tokens = TiedTokens(codebook, width)
        self.remember(codebook)

    def forget_codebook(self):
        # A tied prior stays one for the codes to whose directions it is tied.
        if not isinstance(self.tokens, TiedTokens):
            super().forget_codebook()

    def features(
        self, embedded: Float[Tensor, "B h w C"], labels: Labels
    ) -> Float[Tensor, "B h w C"]:
        """Compute for each position what the embedded tokens before it say about its token."""
        raise NotImplementedError

    def predict(self, tokens, labels):
        return self.tokens.logits(self.features(self.tokens.embed(tokens), labels))

    def label_rows(self, labels: Tensor | None, batch: int) -> Tensor:
        """Return the row of each grid in a table of labels; without classes there is one row."""
        if labels is None:
            return torch.zeros(batch, dtype=torch.int64, device=self.device)
        return labels

    def config(self):
        codebook_dim = None
        if isinstance(self.tokens, TiedTokens):
            codebook_dim = self.tokens.directions.shape[1]
        return {
            **super().config(),
            "classes": self.classes,
            "width": self.width,
            "codebook_dim": codebook_dim,
        }
