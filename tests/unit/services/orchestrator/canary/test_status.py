"""Canary status: what is written is read back, and promotions are remembered."""

from dataclasses import asdict, replace

from bem_fleet.services.orchestrator.canary.machine import CanaryPhase, CanaryState
from bem_fleet.services.orchestrator.canary.status import (
    CanaryStatus,
    GateStatus,
    MetricStatus,
    canary_status_patch,
    read_canary_status,
)

from tests.unit.services.orchestrator.missions import canary_spec

GATE = GateStatus("continue", "errors is open", 12, "errors -0.0100", "0.2")


def written(old: CanaryStatus, state: CanaryState, **more: object) -> CanaryStatus:
    """Return the status after a state was written."""
    arguments = {"spec": None, "gate": GATE, "stable": {}, **more}
    spec = arguments.pop("spec")
    patch = canary_status_patch(old, state, spec, **arguments)  # type: ignore[arg-type]
    return read_canary_status({"canary": patch})


def test_a_state_survives_the_status() -> None:
    """Every field of state and gate is read back as it was written."""
    spec = canary_spec(model="qa-v2")
    state = CanaryState(spec.id, CanaryPhase.CANARY, 1, 25, 5, 12.5, True, "step 2", True)
    status = written(CanaryStatus(), state, spec=spec)

    assert asdict(status.state) == asdict(state)
    assert status.gate == GATE
    assert (status.model, status.image, status.candidate) == ("qa-v2", "", "qa-v2")


def test_evidence_survives_a_merge_patch() -> None:
    """An API server drops null, so that nothing is null; and keys may be of another version."""
    first = MetricStatus("quality", None, 1.0, 1.0, 0, 1.0)
    gate = replace(GATE, evidence=(first, MetricStatus("errors", -0.01, 0.2, 0.5, 12, 3.0)))
    spec = canary_spec(model="qa-v2")
    state = CanaryState(spec.id, CanaryPhase.CANARY, since=1)
    patch = canary_status_patch(CanaryStatus(), state, spec, gate=gate, stable={})
    assert patch is not None
    rows = patch["gate"]["evidence"]
    rows[1] |= {"added": "later"}

    assert None not in rows[0].values()
    assert read_canary_status({"canary": patch}).gate == gate


def test_nothing_is_written_before_the_first_canary() -> None:
    """A mission without a canary has no such part."""
    patch = canary_status_patch(CanaryStatus(), CanaryState(), None, gate=GATE, stable={})

    assert patch is None
    assert read_canary_status({}) == CanaryStatus()


def test_a_promoted_adapter_is_remembered_by_the_next_canary() -> None:
    """The name stays with the promoted adapter until another one is promoted."""
    first, second = canary_spec(model="v2"), canary_spec(model="v3")
    promoted = CanaryState(first.id, CanaryPhase.PROMOTED, since=1)
    status = written(CanaryStatus(), promoted, spec=first)
    started = CanaryState(second.id, CanaryPhase.STARTING, since=2)

    assert status.stable_model == "v2"
    assert written(status, started, spec=second).stable_model == "v2"


def test_an_aborted_promotion_is_to_be_undone() -> None:
    """Stable's snapshot is of the start, and only a stopped promotion asks for it back."""
    spec = canary_spec(image="new")
    snapshot = {"image": "old", "env": {}}
    state = CanaryState(spec.id, CanaryPhase.PROMOTING, since=1)
    status = written(CanaryStatus(), state, spec=spec, stable=snapshot)
    stopped = replace(state, phase=CanaryPhase.ROLLED_BACK)
    undone = written(status, stopped, spec=spec, stable={"image": "new", "env": {}})

    assert not status.undo_promotion
    assert undone.undo_promotion
    assert undone.stable_snapshot == snapshot
    assert written(undone, stopped).undo_promotion


def test_the_history_keeps_the_latest_changes() -> None:
    """Changes of phase and step are kept, ten at most; others are not."""
    spec, status = canary_spec(image="i"), CanaryStatus()
    for step in range(12):
        state = CanaryState(spec.id, CanaryPhase.CANARY, step, since=step)
        status = written(status, state, spec=spec)
        status = written(status, replace(state, weight=7), spec=spec)

    assert [entry["step"] for entry in status.raw["history"]] == list(range(3, 13))
