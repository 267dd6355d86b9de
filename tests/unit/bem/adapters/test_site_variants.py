"""Tests of site variants: identity at the start, shapes, gradients and parity of size."""

from typing import Any

import pytest
import torch
from bem.adapters.site_variants import (
    MAX_GAMMA,
    MAX_KRONECKER_NORM,
    VARIANTS,
    FilmSite,
    HeadGatedSite,
    KroneckerSite,
    LowRankSite,
    Variant,
    make_site,
    pad_rank,
    parity_rows,
)
from torch import Tensor, nn

SHAPES = {"o_proj": (576, 576), "down_proj": (1536, 576)}
RANK = 16


def site_of(variant: Variant, kind: str = "down_proj") -> LowRankSite:
    """Return a fresh site of the packaged model's shape."""
    torch.manual_seed(0)
    return make_site(variant, kind, *SHAPES[kind], RANK, head=64)


def moved(site: LowRankSite, seed: int = 1) -> Tensor:
    """Give all parameters random values and return the dense update."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for one in site.parameters():
            one.copy_(torch.randn(one.shape, generator=generator))
        a, b = site.factors()
        return b @ a


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fresh_site_is_the_frozen_layer(variant: Variant, kind: str) -> None:
    """The update is exactly zero, and its factors have the shapes of the layer."""
    site = site_of(variant, kind)
    a, b = site.factors()

    assert (b @ a).eq(0).all()
    assert a.shape == (site.served_rank, SHAPES[kind][0])
    assert b.shape == (SHAPES[kind][1], site.served_rank)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_is_trained(variant: Variant, kind: str) -> None:
    """Two steps reach every parameter: the first moves what multiplies zero."""
    site = site_of(variant, kind)
    x, target = torch.randn(4, SHAPES[kind][0]), torch.randn(4, SHAPES[kind][1])
    optimizer = torch.optim.SGD(site.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        a, b = site.factors()
        loss: Any = nn.functional.mse_loss(x @ a.T @ b.T, target, reduction="sum")
        loss.backward()
        optimizer.step()

    for name, one in site.named_parameters():
        assert one.grad is not None, name
        assert one.grad.isfinite().all(), name
        assert one.grad.abs().max() > 0, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_size_is_that_of_the_plain_site(variant: Variant) -> None:
    """At every site of the packaged model parameters and multiplications are within 5 %."""
    rows = [row for row in parity_rows(SHAPES, RANK, head=64) if row.variant == variant]

    assert [row.kind for row in rows] == list(SHAPES)
    for row in rows:
        site = site_of(variant, row.kind)
        assert row.cost.parameters == sum(one.numel() for one in site.parameters())
        assert row.at_parity, row


def test_head_gates_scale_the_inputs_of_their_group() -> None:
    """A gate of zero closes its group; a width that does not divide the inputs is refused."""
    site = HeadGatedSite(8, 4, 2, group=4)
    moved(site)
    with torch.no_grad():
        site.gate.copy_(torch.tensor([-1e4, 0.0]))
    a, _ = site.factors()

    assert a[:, :4].eq(0).all()
    assert torch.equal(a[:, 4:], site.A[:, 4:])
    with pytest.raises(ValueError, match="group: 3 does not divide 8"):
        HeadGatedSite(8, 4, 2, group=3)


def test_film_scales_outputs_within_its_clamp() -> None:
    """Each output is scaled by 1 + gamma, and gamma stays within 0.5."""
    site = FilmSite(8, 4, 3)
    moved(site)
    with torch.no_grad():
        site.gamma.copy_(torch.tensor([1e4, -1e4, 0.0, 1e4]))
    _, b = site.factors()
    factors = torch.tensor([1 + MAX_GAMMA, 1 - MAX_GAMMA, 1, 1 + MAX_GAMMA])

    assert torch.allclose(b, site.B * factors[:, None])


def test_kronecker_update_is_the_clamped_product() -> None:
    """The factors stand for ``B A + clamp (U (x) v_B v_A^T)``; a small product is not clamped."""
    site = KroneckerSite(1536, 576, RANK)
    dense = moved(site)
    with torch.no_grad():
        product = torch.kron(site.U, site.v_b[:, None] @ site.v_a[None])
        norm = torch.linalg.matrix_norm(product, ord=2)
        wanted = site.B @ site.A + product * (MAX_KRONECKER_NORM / norm)
        site.v_b.mul_(1e-4)
        a, b = site.factors()

    assert norm > MAX_KRONECKER_NORM
    assert torch.allclose(dense, wanted, rtol=1e-3, atol=1e-3)
    small = site.B @ site.A + torch.kron(site.U, site.v_b[:, None] @ site.v_a[None])
    assert torch.allclose(b @ a, small, rtol=1e-3, atol=1e-3)


def test_a_rank_without_a_kronecker_shape_is_named() -> None:
    """A layer too small for parity says which rank was asked for."""
    with pytest.raises(ValueError, match="rank: no Kronecker factor of a 64 to 32 layer"):
        KroneckerSite(64, 32, 4)


def test_padded_ranks_add_nothing() -> None:
    """Factors of a higher rank stand for the same update."""
    site = site_of("film")
    dense = moved(site)
    a, b = pad_rank(site.factors(), RANK + 3)

    assert (a.shape[0], b.shape[1]) == (RANK + 3, RANK + 3)
    assert torch.allclose(b @ a, dense)
