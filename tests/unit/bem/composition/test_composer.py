"""Tests of the composer: leases, projected factors, and the trust region at each code."""

import math
from pathlib import Path

import pytest
import torch
from bem.adapters.bank import AdapterBank
from bem.composition import ComposedAdapters, Composer, CompositionSettings
from bem.errors import AdapterNotFoundError, SlotsFullError
from bem.testing import tiny_backbone
from bem.trust_region import LowRankDelta, frobenius_norm
from torch import Tensor

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK, write_adapter

NAMES = ("alpha", "beta", "gamma")


@pytest.fixture
def bank(tmp_path: Path) -> AdapterBank:
    """A bank of three slots with three adapters."""
    backbone = tiny_backbone()
    made = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=3, feature_layer=FEATURE_LAYER)
    for seed, name in enumerate(NAMES):
        write_adapter(tmp_path, backbone, name, seed=seed)
        made.load(tmp_path / name)
    return made


def updates(bank: AdapterBank, composed: ComposedAdapters, path: str) -> list[LowRankDelta]:
    """Return the updates that the members' slots serve at one site, at codes of one."""
    found = []
    for one in composed.members:
        assert one.slot is not None
        (a, b), scale = bank.factors.read(one.slot, one.rank)[path]
        found.append(LowRankDelta(a, b, torch.ones(one.rank), scale))
    return found


def codes(seed: int, members: int) -> list[Tensor]:
    """Return random codes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(RANK, generator=generator) * 2 for _ in range(members)]


def test_members_write_orthogonal_directions(bank: AdapterBank) -> None:
    """The first member keeps its factors; each further one is outside those before it."""
    composed = Composer(bank, CompositionSettings(), None).acquire(NAMES)
    plain = bank.find("alpha").slot

    assert composed.members[0].slot == plain
    for path in bank.factors.sites:
        first, second, third = (one.b for one in updates(bank, composed, path))
        assert float((first.T @ second).abs().max()) < 1e-4
        assert float((torch.cat([first, second], 1).T @ third).abs().max()) < 1e-4


def test_composition_is_the_sum_within_the_trust_region(bank: AdapterBank) -> None:
    """At every site the scaled dense sum has norm tau where it exceeded tau, and is kept else."""
    free = Composer(bank, CompositionSettings(), None)
    composed = free.acquire(["alpha", "beta"])
    gates = codes(1, 2)
    norms = []
    for path in bank.factors.sites:
        parts = zip(updates(bank, composed, path), gates, strict=True)
        dense = sum(delta.scale * (delta.b * code) @ delta.a for delta, code in parts)
        assert isinstance(dense, Tensor)
        norms.append(float(dense.norm()))
    tau = sorted(norms)[1] + 1e-3
    factors = Composer(bank, CompositionSettings(tau=tau), None).site_factors(composed, gates, 0.0)

    wanted = [min(1.0, tau / norm) for norm in norms]
    assert factors.tolist() == pytest.approx(wanted, rel=1e-5)
    assert 0 < sum(one < 1 for one in wanted) < len(wanted)
    assert free.site_factors(composed, gates, 0.0).eq(1).all()


def test_safety_counts_in_the_norm_and_is_not_scaled(bank: AdapterBank) -> None:
    """The others get what the safety adapter leaves of the trust region; nothing beyond it."""
    safety = bank.acquire("gamma")
    assert safety.slot is not None
    gates = codes(2, 2)
    tau = 9.0
    composer = Composer(bank, CompositionSettings(tau=tau), (safety.slot, RANK))
    again = composer.acquire(["alpha", "beta"])
    factors = composer.site_factors(again, gates, 0.5)

    for place, path in enumerate(bank.factors.sites):
        own = [
            LowRankDelta(one.a, one.b, code, one.scale * float(factors[place]))
            for one, code in zip(updates(bank, again, path), gates, strict=True)
        ]
        (a, b), scale = bank.factors.read(safety.slot, RANK)[path]
        fixed = LowRankDelta(a, b, torch.ones(RANK), 0.5 * scale)
        assert frobenius_norm([*own, fixed]) <= tau * (1 + 1e-6) or float(factors[place]) == 0
    assert factors.lt(1).any()
    assert composer.site_factors(again, gates, 100.0).eq(0).all()


def test_leases_end_and_slots_are_shared(bank: AdapterBank) -> None:
    """A composition of as many adapters as slots fits, is reused, and gives all leases back."""
    composer = Composer(bank, CompositionSettings(), None)
    first = composer.acquire(NAMES)
    page_ins = bank.page_ins
    second = composer.acquire(NAMES)

    assert bank.page_ins == page_ins
    assert [one.slot for one in first.members] == [one.slot for one in second.members]
    assert sorted(one.slot or 0 for one in first.members) == [0, 1, 2]
    with pytest.raises(SlotsFullError):
        bank.acquire("beta")
    composer.release(first)
    composer.release(second)
    assert bank.leases() == 0
    assert bank.acquire("beta").slot is not None


def test_a_failed_acquisition_releases_what_it_took(bank: AdapterBank) -> None:
    """An unknown second adapter leaves no lease on the first."""
    with pytest.raises(AdapterNotFoundError, match="nobody"):
        Composer(bank, CompositionSettings(), None).acquire(["alpha", "nobody"])

    assert bank.leases() == 0


def test_without_projection_factors_stay(bank: AdapterBank) -> None:
    """``none`` sums the updates as they are, in the adapters' own slots."""
    composed = Composer(bank, CompositionSettings("none"), None).acquire(["alpha", "beta"])

    assert [one.slot for one in composed.members] == [bank.find(n).slot for n in ("alpha", "beta")]


def test_settings_are_named_and_checked() -> None:
    """Settings that compose differently differ in their identity; a radius is positive."""
    identities = {
        made.identity
        for tau in (1.0, math.inf)
        for made in (CompositionSettings("orthogonal", tau), CompositionSettings("none", tau))
    }

    assert len(identities) == 4
    with pytest.raises(ValueError, match="tau: 0"):
        CompositionSettings(tau=0)
