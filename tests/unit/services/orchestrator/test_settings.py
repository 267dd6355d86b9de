"""Promised defaults of the orchestrator."""

import pytest
from bem_fleet.services.orchestrator.settings import OrchestratorSettings
from pydantic import ValidationError

from tests.unit.services.orchestrator.missions import CRD


def test_defaults_are_as_documented() -> None:
    """Loopback on its own port, a cluster's missions, and the intervals of the README."""
    settings = OrchestratorSettings()

    assert settings.address == "127.0.0.1:50101"
    assert settings.missions_dir is None
    assert (settings.lease_duration_s, settings.analysis_interval_s) == (15, 2.0)
    assert (settings.canary_resync_s, settings.canary_drain_s) == (1.0, 10.0)
    assert (settings.debounce_s, settings.max_concurrent_writes) == (0.05, 16)
    assert (CRD.parents[2] / settings.mission_crd).samefile(CRD)
    assert settings.identity


def test_a_lease_too_short_to_renew_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below four seconds the renewals of the Kubernetes client do not fit in."""
    monkeypatch.setenv("BEM_ORCHESTRATOR_LEASE_DURATION_S", "3")

    with pytest.raises(ValidationError, match="lease_duration_s"):
        OrchestratorSettings()
