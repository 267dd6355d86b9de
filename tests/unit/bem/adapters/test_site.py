"""Tests of BEM sites: the gated low-rank sum, row by row and concatenated."""

import pytest
import torch
from bem.adapters.row_codes import RowCodes
from bem.adapters.site import TARGET_MODULES, BemSite, install_sites
from bem.testing import tiny_backbone
from hypothesis import given, settings
from hypothesis import strategies as st


def site(row_codes: RowCodes, slots: int = 3, rank: int = 4) -> BemSite:
    """Return a site with random adapters."""
    base = torch.nn.Linear(12, 10, bias=False)
    made = BemSite(base, rank=rank, slots=slots, row_codes=row_codes)
    for slot in range(slots):
        made.write(slot, (torch.randn(rank, 12), torch.randn(10, rank)), 1.0)
    return made


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), rows=st.integers(1, 5), steps=st.integers(1, 4))
def test_zero_code_is_the_base_layer_exactly(seed: int, rows: int, steps: int) -> None:
    """With codes of zero, or none, the output equals the base's bit for bit."""
    torch.manual_seed(seed)
    codes = RowCodes()
    layer = site(codes)
    x = torch.randn(rows, steps, 12)
    base = layer.base(x)

    assert torch.equal(layer(x), base)
    codes.set(torch.randint(0, 3, (rows, 2)), torch.zeros(rows, 2, 4))
    assert torch.equal(layer(x), base)
    codes.clear()
    assert torch.equal(layer(x), base)


@pytest.mark.parametrize("grad", [True, False])
@settings(deadline=None)
@given(seed=st.integers(0, 2**31), adapters=st.integers(1, 3))
def test_each_row_gets_its_own_adapters(grad: bool, seed: int, adapters: int) -> None:
    """One batch equals the formula row by row, in training and with concatenated factors."""
    torch.manual_seed(seed)
    codes = RowCodes()
    layer = site(codes)
    x, slots, code = (
        torch.randn(4, 3, 12),
        torch.randint(0, 3, (4, adapters)),
        torch.randn(4, adapters, 4),
    )
    codes.set(slots, code)
    with torch.set_grad_enabled(grad):
        out = layer(x)

    for row in range(4):
        delta = sum(
            layer.B[slots[row, s]] @ torch.diag(code[row, s]) @ layer.A[slots[row, s]]
            for s in range(adapters)
        )
        expected = x[row] @ (layer.base.weight + delta).T
        assert torch.allclose(out[row], expected, atol=1e-4)


def test_token_codes_differ_along_the_sequence() -> None:
    """A code of ones at some tokens and zeros at others acts only where it is one."""
    codes = RowCodes()
    layer = site(codes)
    x = torch.randn(1, 2, 12)
    codes.set(torch.tensor([[1]]), torch.tensor([[[[1.0] * 4], [[0.0] * 4]]]))
    out = layer(x)

    assert not torch.allclose(out[0, 0], layer.base(x)[0, 0])
    assert torch.equal(out[0, 1], layer.base(x)[0, 1])


def test_concatenated_codes_are_those_of_the_module_docstring() -> None:
    """The worked example: codes over all ranks, and a slot that keeps its position."""
    codes = RowCodes()
    one, half, zero = [1.0, 1.0], [0.5, 0.5], [0.0, 0.0]
    codes.set(torch.tensor([[3, 3], [3, 1]]), torch.tensor([[one, zero], [one, half]]))
    used, spread = codes.concatenated()

    assert used == (1, 3)
    assert spread[:, 0].tolist() == [zero + one, half + one]
    codes.set(torch.tensor([[3, 3], [3, 2]]), torch.tensor([[one, zero], [one, half]]))
    assert codes.concatenated()[0] == (2, 3)
    codes.clear()
    with pytest.raises(ValueError, match="no codes are set"):
        codes.concatenated()


def test_order_is_dropped_when_most_of_it_is_unused() -> None:
    """Unused positions are kept for a while, then the order starts anew."""
    codes = RowCodes()
    codes.set(torch.tensor([[0, 1, 2, 3, 4]]), torch.ones(1, 5, 2))
    assert codes.concatenated()[0] == (0, 1, 2, 3, 4)
    codes.set(torch.tensor([[1, 3, 4]]), torch.ones(1, 3, 2))
    assert codes.concatenated()[0] == (0, 1, 2, 3, 4)
    codes.set(torch.tensor([[3, 4]]), torch.ones(1, 2, 2))
    assert codes.concatenated()[0] == (3, 4)


@torch.no_grad()
def test_only_changed_positions_are_copied() -> None:
    """A slot that is written is copied again; other positions stay as they were."""
    layer = site(RowCodes())
    down, _ = layer.concatenate((0, 2), torch.float32)
    before = down.clone()
    layer.A[0] = 0  # unnoticed
    layer.write(2, (torch.zeros(4, 12), torch.randn(10, 4)), 1.0)
    down, up = layer.concatenate((0, 2), torch.float32)

    assert torch.equal(down[:4], before[:4])
    assert not down[4:].any()
    assert torch.equal(up[4:], layer.B[2].T)


@torch.no_grad()
def test_preset_codes_use_the_concatenated_factors() -> None:
    """A graph's codes give what the same adapters give by row; without factors it is an error."""
    codes = RowCodes()
    layer = site(codes)
    x = torch.randn(2, 1, 12)
    codes.set(torch.tensor([[0], [2]]), torch.ones(2, 1, 4))
    with codes.use_preset(torch.ones(2, 1, 8)), pytest.raises(RuntimeError, match="concatenate"):
        layer(x)
    expected = layer(x)
    used, spread = codes.concatenated()
    layer.concatenate(used, torch.float32)
    codes.clear()
    with codes.use_preset(spread):
        assert torch.allclose(layer(x), expected, atol=1e-5)
    assert torch.equal(layer(x), layer.base(x))


def test_codes_that_do_not_fit_are_refused() -> None:
    """Shapes are checked where they are set; a layer takes sites once."""
    with pytest.raises(ValueError, match="do not fit"):
        RowCodes().set(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(3, 1, 4))
    model = tiny_backbone().model
    sites = install_sites(model, layers=[3], rank=2, slots=1, row_codes=RowCodes())
    with pytest.raises(ValueError, match="already"):
        install_sites(model, layers=[3], rank=2, slots=1, row_codes=RowCodes())

    assert list(sites) == [f"model.layers.3.{path}" for path in TARGET_MODULES.values()]


@pytest.mark.parametrize("steps", [(), (2,)])
@pytest.mark.parametrize("graded", [False, True])
def test_factors_scale_the_codes_of_one_site(graded: bool, steps: tuple[int, ...]) -> None:
    """Site factors multiply the row's codes at their own site only; 1 changes no bit."""
    codes = RowCodes()
    layer = site(codes)
    layer.index = 1
    x = torch.randn(2, 2, 12)
    slots, plain = torch.tensor([[0, 2], [1, 0]]), torch.rand(2, *steps, 2, 4)
    factors = torch.ones(2, 2, *steps)
    factors[0] = 7
    with torch.set_grad_enabled(graded):
        codes.set(slots, plain)
        wanted = layer(x)
        codes.set(slots, plain, factors)
        assert torch.equal(layer(x), wanted)
        factors[1, 0] = 0.5
        halved = plain.clone()
        halved[0] *= 0.5
        codes.set(slots, plain, factors)
        found = layer(x)
        codes.set(slots, halved)

        assert torch.equal(found, layer(x))
    with pytest.raises(ValueError, match="site factors"):
        codes.set(slots, plain, factors[:, :1])


@torch.no_grad()
def test_unused_ranks_are_zero_and_not_read() -> None:
    """A slot holds the ranks written last; trailing ranks that add nothing are skipped."""
    codes = RowCodes()
    layer = site(codes)
    a, b = torch.randn(3, 12), torch.randn(10, 3)
    b[:, 2] = 0
    layer.write(1, (a, b), 2.0)
    assert int(layer.used_ranks[1]) == 2
    assert not layer.A[1, 3:].any()
    codes.set(torch.tensor([[1]]), torch.ones(1, 1, 4))
    x = torch.randn(1, 2, 12)
    assert torch.allclose(layer(x), layer.base(x) + 2 * x @ a.T @ b.T, atol=1e-5)

    layer.write(1, None, 1.0)
    assert not layer.A[1].any()
    assert torch.equal(layer(x), layer.base(x))


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e7])
def test_float16_factors_of_any_size_keep_their_precision(size: float) -> None:
    """Powers of two bring factors into the range of float16 and are part of the slot's scale."""
    base = torch.nn.Linear(12, 10, bias=False)
    layer = BemSite(base, rank=4, slots=1, row_codes=RowCodes(), dtype=torch.float16)
    a, b = size * torch.randn(4, 12), torch.randn(10, 4) / size
    layer.write(0, (a, b), 2.0)
    found = float(layer.scale[0]) * layer.B[0].float() @ layer.A[0].float()

    assert layer.A.dtype == torch.float16
    torch.testing.assert_close(found, 2 * b @ a, rtol=1e-2, atol=4e-3)
    layer.write(0, None, 1.0)
    assert not layer.A.any()
