"""Gated delta-rule state: a matrix memory of bounded size that is read by content.

Each write erases what the state returns for a key and stores a new value there (DeltaNet, arXiv
2102.11174; with the decay of Gated DeltaNet, arXiv 2412.06464):

    S_t = a_t S_{t-1} + b_t k_t (v_t - S_{t-1}^T k_t)^T

``scan`` computes a chunk of writes at once from a triangular system; ``step`` is the recurrence.
With unit keys, ``a_t`` in [0, 1] and ``b_t`` in [0, a_t] no write amplifies the state: the factor
``a I - b k k^T`` has eigenvalues in [0, 1]. The largest singular value is clamped besides, so that
a state of any number of writes is finite.
"""

import torch
from torch import Tensor

CHUNK = 64
"""Writes that are computed at once, and after which the state is clamped."""

SPECTRAL_LIMIT = 32.0
"""Largest singular value of a head's state."""


def step(state: Tensor, key: Tensor, value: Tensor, decay: Tensor, write: Tensor) -> Tensor:
    """Return the state after one write.

    Args:
        state: ``S [H, K, V]``, before the write.
        key: Unit vector ``k [H, K]``.
        value: ``v [H, V]``.
        decay: ``a [H]`` in (0, 1].
        write: ``b [H]`` in [0, 1].
    """
    returned = torch.einsum("hkv,hk->hv", state, key)
    change = torch.einsum("hk,hv->hkv", key, value - returned)
    return decay[:, None, None] * state + write[:, None, None] * change


def scan_chunk(
    state: Tensor, keys: Tensor, values: Tensor, decays: Tensor, writes: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute a chunk of writes in parallel.

    With ``g_t`` the product of the decays up to ``t``, the state is ``S_t = g_t S_0 + sum_i
    (g_t / g_i) k_i w_i^T``, and the recurrence is the unit lower-triangular system ``w_t + b_t
    sum_{i<t} (g_{t-1} / g_i) (k_t · k_i) w_i = b_t (v_t - g_{t-1} S_0^T k_t)``.

    Args:
        state: ``S_0 [H, K, V]``.
        keys: Unit vectors ``[H, T, K]``.
        values: ``[H, T, V]``.
        decays: ``a [H, T]`` in (0, 1].
        writes: ``b [H, T]`` in [0, 1].

    Returns:
        The state after the chunk ``[H, K, V]``, and what each key returned before its write,
        ``S_{t-1}^T k_t``, ``[H, T, V]``.
    """
    size = keys.shape[1]
    logs = decays.log().cumsum(1)  # [H, T], log g_t
    before = logs - decays.log()  # log g_{t-1}
    below = torch.ones(size, size, dtype=torch.bool, device=keys.device).tril(-1)
    # Above the diagonal the exponent is positive and may overflow: it is masked before exp.
    exponents = (before[:, :, None] - logs[:, None, :]).masked_fill(~below, -torch.inf)
    crossed = exponents.exp() * (keys @ keys.transpose(1, 2))  # [H, T, T], strictly lower
    carried = before.exp()[..., None] * (keys @ state)  # [H, T, V]
    system = torch.eye(size, dtype=keys.dtype, device=keys.device) + writes[..., None] * crossed
    right = writes[..., None] * (values - carried)
    updates = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    returned = carried + crossed @ updates
    last = logs[:, -1:]
    weighted = (last - logs).exp()[..., None] * keys
    return last.exp()[..., None] * state + weighted.transpose(1, 2) @ updates, returned


def scan(
    state: Tensor,
    keys: Tensor,
    values: Tensor,
    decays: Tensor,
    writes: Tensor,
    *,
    limit: float = SPECTRAL_LIMIT,
) -> Tensor:
    """Return the state after all writes, in chunks of 64, clamped after each chunk.

    Args:
        state: ``[H, K, V]``.
        keys: Unit vectors ``[H, T, K]``.
        values: ``[H, T, V]``.
        decays: ``[H, T]`` in (0, 1].
        writes: ``[H, T]`` in [0, 1].
        limit: Largest singular value.
    """
    for begin in range(0, keys.shape[1], CHUNK):
        part = slice(begin, begin + CHUNK)
        state, _ = scan_chunk(
            state, keys[:, part], values[:, part], decays[:, part], writes[:, part]
        )
        state = clamp_spectrum(state, limit)
    return state


def clamp_spectrum(state: Tensor, limit: float = SPECTRAL_LIMIT) -> Tensor:
    """Scale heads whose largest singular value exceeds ``limit`` down to it; ``[H, K, V]``."""
    # The Frobenius norm bounds the largest singular value and costs no decomposition.
    norms = torch.linalg.matrix_norm(state)
    if bool((norms <= limit).all()):
        return state
    largest = torch.linalg.matrix_norm(state, ord=2)
    return state * (limit / largest.clamp(min=limit))[:, None, None]


def read(state: Tensor, queries: Tensor) -> Tensor:
    """Return what a state stores at ``queries [H, N, K]``, ``S^T q``: ``[H, N, V]``."""
    return queries @ state
