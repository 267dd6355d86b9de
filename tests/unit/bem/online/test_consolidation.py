"""Tests of the consolidation penalty against closed forms."""

import pytest
import torch
from bem.errors import InvalidSettingError
from bem.online.consolidation import PENALTIES, Consolidation, PenaltyKind, PenaltySettings
from bem.online.natural_gradient import Quadratic, StepSettings, take_steps
from torch import Tensor

WIDTH = 6
EXACT = StepSettings(damping=0.0, max_divergence=1e9)


def regressions(batches: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of linear regressions with correlated inputs, each too small on its own."""
    generator = torch.Generator().manual_seed(2)
    mixing = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    truth = torch.randn(WIDTH, generator=generator, dtype=torch.float64)
    out = []
    for _ in range(batches):
        x = torch.randn(3, WIDTH, generator=generator, dtype=torch.float64) @ mixing
        noise = torch.randn(3, generator=generator, dtype=torch.float64)
        out.append((x, x @ truth + 0.1 * noise))
    return out


def learn(kind: PenaltyKind, *, strength: float = 1.0) -> Tensor:
    """Return the code after learning the batches one after the other."""
    code = torch.zeros(WIDTH, dtype=torch.float64)
    penalty = Consolidation.around(code, PenaltySettings(kind, strength, prior=0.5))
    for x, y in regressions(5):

        def measure(c: Tensor, x: Tensor = x, y: Tensor = y, p: Consolidation = penalty) -> float:
            return float((x @ c - y).square().sum()) / 2 + p.value(c)

        def expand(
            c: Tensor, x: Tensor = x, y: Tensor = y, p: Consolidation = penalty
        ) -> Quadratic:
            gradient = x.T @ (x @ c - y) + p.gradient(c)
            return Quadratic(measure(c), gradient, x.T @ x + p.curvature())

        code = take_steps(code, expand, measure, EXACT).code
        penalty = penalty.absorb(code, x.T @ x)
    return code


def ridge() -> Tensor:
    """Return the minimum of all batches at once with the prior's precision of 0.5."""
    x, y = (torch.cat(parts) for parts in zip(*regressions(5), strict=True))
    minimum: Tensor = torch.linalg.solve(
        x.T @ x + 0.5 * torch.eye(WIDTH, dtype=torch.float64), x.T @ y
    )
    return minimum


def test_full_fisher_batch_by_batch_is_all_at_once() -> None:
    """With quadratic losses the full penalty forgets nothing: recursive least squares."""
    torch.testing.assert_close(learn("full"), ridge(), atol=1e-9, rtol=0)


def test_ablations_forget() -> None:
    """Diagonal, proximal and no penalty end away from the joint minimum."""
    errors = {kind: float((learn(kind) - ridge()).norm()) for kind in ("diagonal", "proximal")}

    assert min(errors.values()) > 0.05


def test_minimum_is_the_weighted_mean_of_two_quadratics() -> None:
    """With loss (c-a)^T H (c-a)/2 the update is (H + s F)^-1 (H a + s F c*), for each kind."""
    generator = torch.Generator().manual_seed(4)
    draws = torch.randn(2, 9, 3, generator=generator, dtype=torch.float64)
    h, fisher = draws[0].T @ draws[0], draws[1].T @ draws[1]
    a = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    center = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64)
    prior = 0.25 * torch.eye(3, dtype=torch.float64)
    kept = {
        "full": prior + fisher,
        "diagonal": prior + torch.diag(fisher.diagonal()),
        "proximal": prior,
        "none": torch.zeros(3, 3, dtype=torch.float64),
    }
    for kind in PENALTIES:
        settings = PenaltySettings(kind, strength=2.0, prior=0.25)
        penalty = Consolidation.around(torch.zeros(3), settings).absorb(center, fisher)

        def measure(c: Tensor, p: Consolidation = penalty) -> float:
            return float((c - a) @ h @ (c - a)) / 2 + p.value(c)

        def expand(c: Tensor, p: Consolidation = penalty) -> Quadratic:
            return Quadratic(0.0, h @ (c - a) + p.gradient(c), h + p.curvature())

        found = take_steps(center, expand, measure, EXACT).code
        wanted = torch.linalg.solve(h + 2 * kept[kind], h @ a + 2 * kept[kind] @ center)
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


def test_value_gradient_and_curvature_belong_together() -> None:
    """They are those of one quadratic form."""
    settings = PenaltySettings(strength=3.0)
    penalty = Consolidation.around(torch.zeros(3), settings).absorb(torch.ones(3), torch.eye(3))
    code = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)

    # precision 1 + 1 on the diagonal, strength 3, distance (1, 0, -1)
    assert penalty.value(code.detach()) == 6
    assert penalty.gradient(code.detach()).tolist() == [6, 0, -6]
    assert penalty.curvature().equal(6 * torch.eye(3, dtype=torch.float64))


def test_retention_fades_the_older_precision() -> None:
    """Half of the precision is left at each update."""
    penalty = Consolidation.around(torch.zeros(2), PenaltySettings(prior=4.0, retention=0.5))
    penalty = penalty.absorb(torch.zeros(2), torch.eye(2)).absorb(torch.zeros(2), torch.eye(2))

    assert penalty.precision.diagonal().tolist() == [2.5, 2.5]


def test_settings_out_of_range_are_refused() -> None:
    """Unknown kinds and numbers out of range are named."""
    with pytest.raises(InvalidSettingError, match="'half' is unknown"):
        PenaltySettings("half")  # type: ignore[arg-type]
    with pytest.raises(InvalidSettingError, match=r"retention in \(0, 1\]"):
        PenaltySettings(retention=0)
