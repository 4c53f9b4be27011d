"""What every prior over grids of tokens has in common: likelihood, sampling one token at a time, saving, opening.

Tokens come in raster order: row by row, each from left to right. A prior gives each token's distribution given the
tokens before it, so that the likelihood of a grid is their product.
"""

import dataclasses
import json
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_model, save_file
from torch import Tensor, nn

from arcvq.priors.tokens import FreeTokens, TiedTokens
from arcvq.quantizers import at_least_float32
from arcvq.runtime.checks import check_range, check_whole
from arcvq.runtime.files import write_whole
from arcvq.runtime.fingerprint import fingerprint
from arcvq.vqvae import VQVAE

FORMAT = 1  # of saved priors; raised when an older reader would misread them


@dataclasses.dataclass
class State:
    """A batch that is being sampled: of the tokens (B, h, w) the first `position` in raster order are set."""

    tokens: Int[Tensor, "B h w"]
    labels: Int[Tensor, " B"] | None
    position: int = 0
    cache: Any = None  # what the prior remembers of the tokens that are set


class Prior(nn.Module):
    """The base of all priors. A subclass gives `predict`, and may make sampling faster with a cache.

    num_codes: K from 1. grid: (h, w), each from 1. classes: number of class labels; 0 for a prior without labels.
    codebook_fingerprint: of the codebook whose tokens it was fitted on; None before fitting.
    """

    kinds: ClassVar[dict[str, type["Prior"]]] = {}

    def __init_subclass__(cls) -> None:
        Prior.kinds[cls.__name__] = cls

    def __init__(self, num_codes: int, grid: tuple[int, int], classes: int = 0):
        super().__init__()
        check_whole(1, num_codes=num_codes, grid_height=grid[0], grid_width=grid[1])
        check_whole(0, classes=classes)
        self.num_codes, self.grid, self.classes = num_codes, (grid[0], grid[1]), classes
        self.codebook_fingerprint: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(chain(self.parameters(), self.buffers())).device

    def predict(self, tokens: Int[Tensor, "B h w"], labels: Int[Tensor, " B"] | None) -> Float[Tensor, "B h w K"]:
        """`forward` without its checks, for loops that must not wait for the device."""
        raise NotImplementedError

    def forward(
        self, tokens: Int[Tensor, "B h w"], labels: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, "B h w K"]:
        """Logits of each token given those before it. Raises ValueError for a wrong shape, token or label."""
        self.check(tokens, labels)
        return self.predict(tokens, labels)

    def log_likelihood(
        self, tokens: Int[Tensor, "B h w"], labels: Int[Tensor, " B"] | None = None
    ) -> Float[Tensor, " B"]:
        """ln p of each grid, in nats, at most 0; in float32. Raises ValueError as `forward` does."""
        logs = at_least_float32(self(tokens, labels)).log_softmax(-1)
        return logs.gather(-1, tokens[..., None]).sum((1, 2, 3))

    def start(self, batch: int, labels: Int[Tensor, " B"] | None = None) -> State:
        """The state of `batch` grids without any token yet. Raises ValueError for labels that do not fit."""
        self.check_labels(labels, batch)
        return State(torch.zeros(batch, *self.grid, dtype=torch.int64, device=self.device), labels)

    @torch.no_grad()
    def next_logits(self, state: State) -> Float[Tensor, "B K"]:
        """Logits of the token at `state.position`, from 0 to h*w - 1, without gradient. Here all is computed anew."""
        row, column = divmod(state.position, self.grid[1])
        return self.predict(state.tokens, state.labels)[:, row, column]

    def append(self, state: State, tokens: Int[Tensor, " B"]) -> None:
        """Set the token at `state.position` and go on to the next. Raises ValueError for a token out of range."""
        check_range(tokens, self.num_codes, "tokens")
        state.tokens.flatten(1)[:, state.position] = tokens
        state.position += 1

    def check(self, tokens: Tensor, labels: Tensor | None) -> None:
        """Raise ValueError for tokens or labels that this prior cannot take."""
        if tuple(tokens.shape[1:]) != self.grid or tokens.ndim != 3:
            raise ValueError(f"tokens have shape {tuple(tokens.shape)}; this prior takes (B, {self.grid[0]}, "
                             f"{self.grid[1]})")
        check_range(tokens, self.num_codes, "tokens")
        self.check_labels(labels, len(tokens))

    def check_labels(self, labels: Tensor | None, batch: int) -> None:
        """Raise ValueError where labels are missing, not expected, of another number, or out of range."""
        if labels is None:
            if self.classes:
                raise ValueError(f"labels are missing; this prior has {self.classes} classes and needs one label each")
            return
        if not self.classes:
            raise ValueError("labels were given, and this prior was made without classes; leave them out")
        if tuple(labels.shape) != (batch,):
            raise ValueError(f"labels have shape {tuple(labels.shape)}; they must be ({batch},), one for each grid")
        check_range(labels, self.classes, "labels")

    def check_model(self, model: VQVAE) -> None:
        """Raise ValueError where this prior is not one over the tokens of the model."""
        if self.num_codes != model.quantizer.num_codes:
            raise ValueError(f"the prior has {self.num_codes} codes and the model {model.quantizer.num_codes}; "
                             "they must be the same")
        found = fingerprint(model.quantizer.codebook)
        if self.codebook_fingerprint not in (None, found):
            raise ValueError(f"the prior belongs to another codebook (fingerprint {self.codebook_fingerprint}) than "
                             f"the model's ({found}); fit a new prior on this model")

    def config(self) -> dict[str, Any]:
        """What `from_config` needs to build this prior again, without its weights."""
        return {"kind": type(self).__name__, "num_codes": self.num_codes, "grid": list(self.grid)}

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Prior":
        """The prior that `config` describes, freshly initialised. Raises ValueError for an unknown kind."""
        fields = dict(config)
        kind, dim = fields.pop("kind", None), fields.pop("codebook_dim", None)
        if kind not in Prior.kinds:
            raise ValueError(f"prior {kind!r} is unknown; known are {', '.join(sorted(Prior.kinds))}")
        if dim is not None:  # the directions come with the weights
            fields["codebook"] = torch.zeros(fields["num_codes"], dim)
        return Prior.kinds[kind](**{**fields, "grid": tuple(fields["grid"])})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json into a folder, each file whole or not at all."""
        folder = Path(folder)
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        config = {"format": FORMAT, "codebook_fingerprint": self.codebook_fingerprint, **self.config()}
        write_whole(folder / "model.safetensors", lambda path: save_file(weights, path))
        write_whole(folder / "config.json", lambda path: path.write_text(json.dumps(config, indent=2)))

    @staticmethod
    def from_pretrained(folder: str | Path) -> "Prior":
        """The prior in a folder that `save_pretrained` wrote, of whatever kind, in evaluation mode.

        Raises FileNotFoundError when the folder lacks a file, ValueError when one is damaged or of another version.
        """
        folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} holds no {name}; a prior is config.json and model.safetensors")
        try:
            config = json.loads((folder / "config.json").read_text())
            if config.pop("format", None) != FORMAT or "codebook_fingerprint" not in config:
                raise ValueError(f"it is no prior of format {FORMAT}, the one that this arcvq reads")
            codebook_fingerprint = config.pop("codebook_fingerprint")
            prior = Prior.from_config(config)
            load_model(prior, str(folder / "model.safetensors"))
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"the prior in {folder} cannot be opened: {reason}") from error
        prior.codebook_fingerprint = codebook_fingerprint
        return prior.eval()


class NetworkPrior(Prior):
    """A prior that is a network between `tokens.embed` and `tokens.logits`; a subclass gives `features`.

    width: C, channels of the network. codebook: None for a free embedding of the tokens; (K, D) to tie them to the
    directions of its codes (see `TiedTokens`). The other arguments are those of `Prior`.
    """

    def __init__(self, num_codes: int, grid: tuple[int, int], classes: int, codebook: Tensor | None, width: int):
        super().__init__(num_codes, grid, classes)
        check_whole(1, width=width)
        self.width, self.tokens = width, _tokens(num_codes, codebook, width)
        if codebook is not None:
            self.codebook_fingerprint = fingerprint(codebook)

    def features(
        self, embedded: Float[Tensor, "B h w C"], labels: Int[Tensor, " B"] | None
    ) -> Float[Tensor, "B h w C"]:
        """At each position, what the embedded tokens before it say about the token there."""
        raise NotImplementedError

    def predict(self, tokens, labels):
        return self.tokens.logits(self.features(self.tokens.embed(tokens), labels))

    def label_rows(self, labels: Tensor | None, batch: int) -> Tensor:
        """The row of each label in an embedding table; a prior without classes has one row for all."""
        return labels if labels is not None else torch.zeros(batch, dtype=torch.int64, device=self.device)

    def config(self):
        dim = self.tokens.directions.shape[1] if isinstance(self.tokens, TiedTokens) else None
        return {**super().config(), "classes": self.classes, "width": self.width, "codebook_dim": dim}


def _tokens(num_codes: int, codebook: Tensor | None, width: int) -> FreeTokens | TiedTokens:
    if codebook is None:
        return FreeTokens(num_codes, width)
    if codebook.ndim != 2 or len(codebook) != num_codes:
        raise ValueError(f"codebook has shape {tuple(codebook.shape)}; it must be ({num_codes}, D)")
    return TiedTokens(codebook, width)
