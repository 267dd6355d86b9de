"""Small causal transformer over characters, for pretraining from scratch (mission D, scale a).

Pre-norm blocks with rotary positions (arXiv 2104.09864) and tied embeddings. A forward pass may use
random embeddings of each sequence instead of the learned ones (lexinvariant language models, arXiv
2305.16349): such a model is equivariant to symbol permutations by construction, because permuting
symbols and embeddings together changes nothing, and the embeddings' law has no order.
"""

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as f

from bem.errors import InvalidSettingError

FILM_LIMIT = 0.5
"""Largest absolute gain and shift of the residual FiLM."""


@dataclass(frozen=True)
class CharacterModelConfig:
    """Size of a character model; the default has 4.8 M parameters.

    Attributes:
        alphabet: Number of symbols V.
        width: Width F of the states, a multiple of twice the heads.
        layers: Number of blocks.
        heads: Attention heads of a block.
        code_layer: Number of blocks below the pooled codes, from 1 to ``layers``.

    Raises:
        InvalidSettingError: A number is out of its range.
    """

    alphabet: int = 96
    width: int = 256
    layers: int = 6
    heads: int = 4
    code_layer: int = 4

    def __post_init__(self) -> None:
        if min(self.alphabet, self.heads) < 1 or self.width < 1 or self.width % (2 * self.heads):
            raise InvalidSettingError(
                f"width: {self.width}; a multiple of {2 * self.heads} is needed with {self.heads} "
                f"heads, and an alphabet of at least 1; got {self.alphabet}"
            )
        if not 1 <= self.code_layer <= self.layers:
            raise InvalidSettingError(
                f"code_layer: {self.code_layer}; it lies in [1, {self.layers}]"
            )


@dataclass(frozen=True, eq=False)
class CharacterOutputs:
    """Outputs of a forward pass.

    Attributes:
        logits: Predictions of the next symbol ``[B, T, V]``.
        states: States after ``code_layer`` blocks ``[B, T, F]``.
    """

    logits: Tensor
    states: Tensor

    @property
    def codes(self) -> Tensor:
        """Mean of the states over positions, ``[B, F]``."""
        return self.states.mean(1)


class ResidualFilm(nn.Module):
    """Residual FiLM (arXiv 1709.07871) with clamped gain and shift: ``x + g x + b``.

    Args:
        width: Width F of the states. The initial module is the identity.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., F]`` of ``[..., F]``."""
        gain, shift = (one.clamp(-FILM_LIMIT, FILM_LIMIT) for one in (self.gain, self.shift))
        return x + gain * x + shift


class _Block(nn.Module):
    """Attention and MLP, each on the normalised states and added to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """Return ``[B, T, F]`` of ``[B, T, F]``."""
        rows, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(rows, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B, H, T, D]
        q, k = _rotate(q, rotation), _rotate(k, rotation)
        mixed = f.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        hidden: Tensor = x + self.down(f.gelu(self.up(self.mlp_norm(x))))
        return hidden


class CharacterModel(nn.Module):
    """Causal transformer over characters.

    Args:
        config: Size of the model.
    """

    def __init__(self, config: CharacterModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(torch.randn(config.alphabet, config.width))
        self.film = ResidualFilm(config.width)
        blocks = [_Block(config.width, config.heads) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.RMSNorm(config.width)
        for block in blocks:  # residual branches start small, as in GPT-2
            for layer in (block.out, block.down):
                nn.init.normal_(layer.weight, std=0.02 / (2 * config.layers) ** 0.5)

    def forward(
        self, ids: Tensor, *, embeddings: Tensor | None = None, positions: Tensor | None = None
    ) -> CharacterOutputs:
        """Return predictions and states.

        Args:
            ids: ``[B, T]`` int64 in ``[0, V)``.
            embeddings: ``[B, V, F]`` embeddings of each sequence; None for the learned ones.
            positions: ``[T]`` ascending positions; None for consecutive ones. Only differences
                matter.
        """
        table = self.embedding.expand(len(ids), -1, -1) if embeddings is None else embeddings
        x = table.gather(1, ids.unsqueeze(-1).expand(-1, -1, self.config.width))
        x = self.film(x)
        places = torch.arange(ids.shape[1]) if positions is None else positions
        rotation = _rotation(places, self.config.width // self.config.heads)
        states = x
        for number, block in enumerate(self.blocks, 1):
            x = block(x, rotation)
            if number == self.config.code_layer:
                states = x
        # Embeddings have entries of size 1, so that the scale keeps logits of size 1.
        logits = self.norm(x) @ table.transpose(1, 2) / self.config.width**0.5
        return CharacterOutputs(logits, states)

    def draw_embeddings(self, rows: int, share: float, generator: torch.Generator) -> Tensor | None:
        """Return embeddings ``[B, V, F]``: random ones for a share of the rows, else the learned.

        None if no row has random ones.
        """
        if not share:
            return None
        size = (rows, self.config.alphabet, self.config.width)
        drawn = torch.randn(size, generator=generator)
        is_random = torch.rand(rows, 1, 1, generator=generator) < share
        return torch.where(is_random, drawn, self.embedding)

    def parameter_groups(self, front: int) -> list[list[str]]:
        """Return names of parameters in the order of the thaw: the front, then block by block.

        Args:
            front: Number of blocks in the front, which also has the FiLM; 0 for all in one group.
        """
        names = [name for name, _ in self.named_parameters()]
        if not front:
            return [names]
        groups = [
            [name for name in names if name.startswith(f"blocks.{number}.")]
            for number in range(self.config.layers)
        ]
        first = [name for name in names if name.startswith("film.")]
        last = [name for name in names if not name.startswith(("film.", "blocks."))]
        return [[*first, *chain.from_iterable(groups[:front])], *groups[front:], last]


def _rotation(positions: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines ``[T, D / 2]`` of rotary positions."""
    rates = 10_000.0 ** -(torch.arange(0, width, 2) / width)
    angles = positions.unsqueeze(1) * rates
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs of features of ``[B, H, T, D]`` by the angles of their positions."""
    cosine, sine = rotation
    left, right = x.chunk(2, -1)
    return torch.cat((left * cosine - right * sine, right * cosine + left * sine), -1)
