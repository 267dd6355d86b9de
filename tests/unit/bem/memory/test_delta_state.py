"""Tests of the gated delta rule: scan equals recurrence, gradients, bounds."""

import pytest
import torch
from bem.memory import delta_state
from torch import Tensor
from torch.nn.functional import normalize


def writes(count: int, *, width: int = 8, heads: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
    """Return unit keys, values, decays in [0.9, 1] and strengths in [0, 0.9]."""
    generator = torch.Generator().manual_seed(seed)
    keys = normalize(torch.randn(heads, count, width, generator=generator), dim=-1)
    values = torch.randn(heads, count, width, generator=generator)
    decays = 0.9 + 0.1 * torch.rand(heads, count, generator=generator)
    strengths = 0.9 * torch.rand(heads, count, generator=generator)
    return keys, values, decays, strengths


def recurrence(state: Tensor, given: tuple[Tensor, ...]) -> Tensor:
    """Return the state after the writes, one by one, clamped where the scan clamps."""
    keys, values, decays, strengths = given
    for at in range(keys.shape[1]):
        state = delta_state.step(state, keys[:, at], values[:, at], decays[:, at], strengths[:, at])
        if (at + 1) % delta_state.CHUNK == 0 or at + 1 == keys.shape[1]:
            state = delta_state.clamp_spectrum(state)
    return state


@pytest.mark.parametrize("count", [1, 63, 64, 65, 300])
def test_scan_equals_recurrence(count: int) -> None:
    """Chunks computed in parallel give the recurrence's state to 1e-5 in float32."""
    given = writes(count, width=64, heads=4)
    state = torch.randn(4, 64, 64, generator=torch.Generator().manual_seed(1)) * 0.1

    torch.testing.assert_close(
        delta_state.scan(state, *given), recurrence(state, given), atol=1e-5, rtol=1e-5
    )


def test_chunk_returns_what_keys_read_before_their_write() -> None:
    """The second result is the recurrence's read of each key before it is written."""
    keys, values, decays, strengths = given = writes(5)
    _, returned = delta_state.scan_chunk(torch.zeros(2, 8, 8), *given)
    before = recurrence(
        torch.zeros(2, 8, 8), (keys[:, :4], values[:, :4], decays[:, :4], strengths[:, :4])
    )
    expected = delta_state.read(before, keys[:, 4:])

    torch.testing.assert_close(returned[:, 4:], expected, atol=1e-6, rtol=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    """Autograd through the triangular system passes gradcheck in float64."""
    keys, values, decays, strengths = (one.double() for one in writes(4, width=3))
    inputs = [torch.randn(2, 3, 3, dtype=torch.float64), keys, values, decays, strengths]
    for one in inputs:
        one.requires_grad_()

    assert torch.autograd.gradcheck(delta_state.scan_chunk, inputs)


def test_last_write_of_a_key_replaces_earlier_ones() -> None:
    """With strength 1 a key returns exactly its latest value."""
    key = normalize(torch.ones(1, 1, 4), dim=-1).expand(1, 3, 4)
    values = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [5.0, 6.0]]])
    ones = torch.ones(1, 3)
    state = delta_state.scan(torch.zeros(1, 4, 2), key, values, ones, ones)

    torch.testing.assert_close(delta_state.read(state, key[:, :1])[0, 0], values[0, 2])


def test_spectrum_is_clamped_to_the_limit() -> None:
    """A head above the limit is scaled to it, and others are left as they are."""
    state = torch.stack([torch.eye(4) * 100, torch.eye(4)])
    clamped = delta_state.clamp_spectrum(state, 2.0)

    assert torch.linalg.matrix_norm(clamped[0], ord=2).item() == pytest.approx(2.0)
    assert torch.equal(clamped[1], state[1])


@pytest.mark.slow
def test_a_million_writes_stay_finite() -> None:
    """Without decay, at full strength and with large values the state is finite and bounded."""
    block = 10_000
    keys, values, _, _ = writes(block, width=16, heads=1, seed=5)
    ones = torch.ones(1, block)
    state = torch.zeros(1, 16, 16)
    for _ in range(100):
        state = delta_state.scan(state, keys, values * 100, ones, ones)

    assert torch.isfinite(state).all()
    assert float(torch.linalg.matrix_norm(state, ord=2)) <= delta_state.SPECTRAL_LIMIT * 1.001
