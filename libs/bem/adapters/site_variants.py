"""Site variants PT1 to PT4: other parameterisations of a site's low-rank update.

Every variant is trained by its own parameters and written as the low-rank factors that it stands
for, so that the engine serves it exactly, by the sites that it has:

``head_gate`` (PT1): one gate for each attention head, or for each group of as many inputs, scales
what ``A`` reads: ``A diag(g)`` with ``g`` in (0, 2).
``rank_mask`` (PT2): the controller keeps the k largest gates of the code and sets the others to
zero (as in DyLoRA, arXiv 2210.07558, but chosen for each prompt); the factors are plain.
``kronecker`` (PT3): on ``down_proj``, ``U (x) v_B v_A^T`` beside a low-rank update of one rank less
(KronA, arXiv 2212.10650). Its spectral norm ``|U| |v_B| |v_A|`` is clamped.
``film`` (PT4): a factor for each output of the update, ``diag(1 + gamma) B`` with ``gamma`` clamped
(the scale of FiLM, arXiv 1709.07871). A shift is left out: sites add no constant.

A fresh variant is the frozen layer exactly.

Example: ``down_proj`` of the packaged model maps 1,536 inputs to 576 outputs. A plain site of rank
16 has 33,792 parameters. ``kronecker`` takes rank 15 with ``U [16, 24]``, ``v_A [64]`` and
``v_B [36]``: 32,164 parameters and 34,176 multiplications a token, 4.8 % less and 1.1 % more. As
factors, which the engine serves, it has rank 15 + 16.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Variant = Literal["plain", "head_gate", "rank_mask", "kronecker", "film"]
VARIANTS: tuple[Variant, ...] = ("plain", "head_gate", "rank_mask", "kronecker", "film")
PARITY = 0.05
"""Largest difference of parameters and of FLOPs from the plain site, as a share."""
MAX_KRONECKER_NORM, MAX_GAMMA = 4.0, 0.5


@dataclass(frozen=True)
class SiteCost:
    """Size of one site's update.

    Attributes:
        parameters: Trained numbers.
        multiplications: Multiplications for one token, computed by its own parameters; half of
            the FLOPs.
    """

    parameters: int
    multiplications: int


class LowRankSite(nn.Module):
    """Plain factors ``B A``, initialised as in LoRA: A random, B zero.

    Args:
        d_in: Inputs of the layer.
        d_out: Outputs of the layer.
        rank: Rank of the factors.
    """

    def __init__(self, d_in: int, d_out: int, rank: int) -> None:
        super().__init__()
        self.d_in, self.d_out, self.rank = d_in, d_out, rank
        # With the leading dimension the fan-in is r * d_in and the bound 1 / sqrt(r * d_in), as in
        # the slot stacks that the committed adapters were trained in.
        a = torch.empty(1, rank, d_in)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        self.A = nn.Parameter(a[0])
        self.B = nn.Parameter(torch.zeros(d_out, rank))

    @property
    def served_rank(self) -> int:
        """Rank of the factors that the engine serves."""
        return self.rank

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the factors ``A [r, d_in]`` and ``B [d_out, r]`` that the parameters stand for."""
        return self.A, self.B

    def cost(self) -> SiteCost:
        """Return parameters and multiplications."""
        size = self.rank * (self.d_in + self.d_out)
        return SiteCost(size, size)


class HeadGatedSite(LowRankSite):
    """PT1: ``A diag(g)`` with one gate ``g = 2 sigmoid(.)`` for each group of inputs.

    Args:
        d_in: Inputs of the layer.
        d_out: Outputs of the layer.
        rank: Rank of the factors.
        group: Inputs of one gate: the width of an attention head; it divides ``d_in``.

    Raises:
        ValueError: ``group`` does not divide ``d_in``.
    """

    def __init__(self, d_in: int, d_out: int, rank: int, *, group: int) -> None:
        super().__init__(d_in, d_out, rank)
        if d_in % group:
            raise ValueError(f"group: {group} does not divide {d_in} inputs; use a head's width")
        self.group = group
        self.gate = nn.Parameter(torch.zeros(d_in // group))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return ``A diag(g) [r, d_in]`` and ``B [d_out, r]``."""
        gates = (2 * torch.sigmoid(self.gate)).repeat_interleave(self.group)
        return self.A * gates, self.B

    def cost(self) -> SiteCost:
        """Return parameters and multiplications."""
        plain = super().cost()
        return SiteCost(plain.parameters + self.gate.numel(), plain.multiplications + self.d_in)


class FilmSite(LowRankSite):
    """PT4: ``diag(1 + gamma) B`` with ``gamma = 0.5 tanh(.)`` for each output.

    It takes the rank whose parameters are nearest to those of the plain site.

    Args:
        d_in: Inputs of the layer.
        d_out: Outputs of the layer.
        rank: Rank of the plain site.
    """

    def __init__(self, d_in: int, d_out: int, rank: int) -> None:
        saved = round(d_out / (d_in + d_out))
        super().__init__(d_in, d_out, max(1, rank - saved))
        self.gamma = nn.Parameter(torch.zeros(d_out))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return ``A [r, d_in]`` and ``diag(1 + gamma) B [d_out, r]``."""
        gamma = MAX_GAMMA * torch.tanh(self.gamma)
        return self.A, (1 + gamma).unsqueeze(1) * self.B

    def cost(self) -> SiteCost:
        """Return parameters and multiplications."""
        plain = super().cost()
        return SiteCost(plain.parameters + self.d_out, plain.multiplications + self.d_out)


class KroneckerSite(LowRankSite):
    """PT3: ``U (x) v_B v_A^T`` with a clamped spectral norm, beside factors of one rank less.

    Args:
        d_in: Inputs of the layer, ``n1 n2``.
        d_out: Outputs of the layer, ``m1 m2``.
        rank: Rank of the plain site, at least 2.

    Raises:
        ValueError: No shape of ``U`` gives the plain site's parameters and multiplications.
    """

    def __init__(self, d_in: int, d_out: int, rank: int) -> None:
        m1, n1 = kronecker_shape(d_in, d_out, rank)
        super().__init__(d_in, d_out, rank - 1)
        self.U = nn.Parameter(torch.randn(m1, n1) / math.sqrt(n1))
        self.v_a = nn.Parameter(torch.randn(d_in // n1) / math.sqrt(d_in // n1))
        self.v_b = nn.Parameter(torch.zeros(d_out // m1))

    @property
    def served_rank(self) -> int:
        """Rank of the factors that the engine serves: the low rank and that of ``U``."""
        return self.rank + min(self.U.shape)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return ``A [r, d_in]`` and ``B [d_out, r]``; r is the low rank and that of ``U``."""
        norm = torch.linalg.matrix_norm(self.U, ord=2) * self.v_a.norm() * self.v_b.norm()
        clamp = MAX_KRONECKER_NORM / norm.clamp(min=MAX_KRONECKER_NORM)
        m1, n1 = self.U.shape
        # U (x) v_B v_A^T = (L (x) v_B) (R (x) v_A^T) for U = L R, with one factor the identity.
        identity = torch.eye(min(m1, n1), device=self.U.device)
        left, right = (identity, self.U) if m1 <= n1 else (self.U, identity)
        down = torch.kron(right, self.v_a.unsqueeze(0))
        up = torch.kron(left, clamp * self.v_b.unsqueeze(1))
        return torch.cat([self.A, down]), torch.cat([self.B, up], dim=1)

    def cost(self) -> SiteCost:
        """Return parameters and multiplications."""
        plain = super().cost()
        size = self.U.numel()
        return SiteCost(
            plain.parameters + size + self.v_a.numel() + self.v_b.numel(),
            plain.multiplications + self.d_in + size + self.d_out,
        )


def kronecker_shape(d_in: int, d_out: int, rank: int) -> tuple[int, int]:
    """Return the shape of ``U`` of largest rank that stays within parity and twice the rank.

    Raises:
        ValueError: There is none.
    """
    found = [
        shape
        for shape in _shapes(d_in, d_out)
        if min(shape) <= rank + 1 and _is_at_parity(d_in, d_out, rank, shape)
    ]
    if not found or rank < 2:
        raise ValueError(
            f"rank: no Kronecker factor of a {d_in} to {d_out} layer has the parameters and "
            f"multiplications of one of {rank} ranks within {PARITY:.0%}; use another rank"
        )
    return max(found, key=lambda shape: (min(shape), -shape[1]))


def make_site(
    variant: Variant, kind: str, d_in: int, d_out: int, rank: int, *, head: int
) -> LowRankSite:
    """Return a fresh site of one variant.

    Args:
        variant: Parameterisation; ``kronecker`` is one of ``down_proj`` and leaves others plain.
        kind: Target module of the site.
        d_in: Inputs of the layer.
        d_out: Outputs of the layer.
        rank: Rank of the plain site with the same budget.
        head: Width of an attention head.
    """
    if variant == "head_gate":
        return HeadGatedSite(d_in, d_out, rank, group=head)
    if variant == "film":
        return FilmSite(d_in, d_out, rank)
    if variant == "kronecker" and kind == "down_proj":
        return KroneckerSite(d_in, d_out, rank)
    return LowRankSite(d_in, d_out, rank)


def pad_rank(factors: tuple[Tensor, Tensor], rank: int) -> tuple[Tensor, Tensor]:
    """Return factors with ranks of zeros up to ``rank``; they add exactly nothing."""
    a, b = factors
    missing = rank - a.shape[0]
    if not missing:
        return factors
    return nn.functional.pad(a, (0, 0, 0, missing)), nn.functional.pad(b, (0, missing))


def _shapes(d_in: int, d_out: int) -> Iterator[tuple[int, int]]:
    for m1 in range(2, d_out + 1):
        for n1 in range(2, d_in + 1):
            if not d_out % m1 and not d_in % n1:
                yield m1, n1


def _is_at_parity(d_in: int, d_out: int, rank: int, shape: tuple[int, int]) -> bool:
    m1, n1 = shape
    plain = rank * (d_in + d_out)
    saved = d_in + d_out
    parameters = m1 * n1 + d_in // n1 + d_out // m1 - saved
    return max(abs(parameters), m1 * n1) <= PARITY * plain


@dataclass(frozen=True)
class ParityRow:
    """Size of one variant's site beside the plain site of the same budget.

    Attributes:
        variant: Parameterisation of the site, one of ``VARIANTS``.
        kind: Target module of the site.
        cost: Size of the site.
        parameters_share: Parameters beyond those of the plain site, as a share.
        multiplications_share: Multiplications beyond those of the plain site, as a share.
        served_rank: Rank of the factors that the engine serves; it multiplies all of them.
    """

    variant: Variant
    kind: str
    cost: SiteCost
    parameters_share: float
    multiplications_share: float
    served_rank: int

    @property
    def at_parity(self) -> bool:
        """Whether both shares are within 5 %."""
        return max(abs(self.parameters_share), abs(self.multiplications_share)) <= PARITY


def parity_rows(shapes: Mapping[str, tuple[int, int]], rank: int, *, head: int) -> list[ParityRow]:
    """Return the size of every variant at every site.

    Args:
        shapes: ``{kind: (d_in, d_out)}`` of the target modules.
        rank: Rank of the plain site.
        head: Width of an attention head.

    Raises:
        ValueError: A variant does not exist at this rank.
    """
    rows = []
    for kind, (d_in, d_out) in shapes.items():
        plain = LowRankSite(d_in, d_out, rank).cost()
        for variant in VARIANTS:
            site = make_site(variant, kind, d_in, d_out, rank, head=head)
            cost = site.cost()
            rows.append(
                ParityRow(
                    variant,
                    kind,
                    cost,
                    cost.parameters / plain.parameters - 1,
                    cost.multiplications / plain.multiplications - 1,
                    site.served_rank,
                )
            )
    return rows
