"""Tests of policy versions, updates and their trust region."""

from dataclasses import replace
from pathlib import Path

import pytest
from bem.errors import ArtifactFormatError, ArtifactTamperedError, BaseMismatchError
from bem.policy.actions import DEFAULT_ACTIONS
from bem.policy.artifact import CARD_FILE, TENSORS_FILE, PolicyArtifact, save_policy
from bem_fleet.services.router.policy_store import (
    CURRENT,
    TRUST_REGION,
    PolicyStore,
)
from fleet.errors import NotFoundError, UnavailableError

from tests.support.policies import tiny_policy
from tests.unit.services.router.plan_hosts import DIGEST, install, open_store


def files_of(folder: Path, artifact: PolicyArtifact) -> tuple[str, bytes]:
    """Return card and tensors of a policy as an update has them."""
    save_policy(folder, artifact)
    return (folder / CARD_FILE).read_text(), (folder / TENSORS_FILE).read_bytes()


def current(folder: Path) -> PolicyArtifact:
    """Return the policy that a new process would serve."""
    found = open_store(folder).current
    assert found is not None
    return found


def update_of(old: PolicyArtifact, nudge: float, **changes: object) -> PolicyArtifact:
    """Return a successor of a policy at some distance."""
    new = tiny_policy(base_digest=DIGEST, nudge=nudge, version=old.card.version + 1)
    card = replace(new.card, **{"parent": old.card.sha256, **changes})  # type: ignore[arg-type]
    return replace(new, card=card)


def test_without_a_folder_there_is_no_policy(tmp_path: Path) -> None:
    """The store says why."""
    store = open_store(tmp_path / "none")

    assert store.current is None
    assert "no policy" in store.problem
    assert store.versions() == []


def test_the_first_policy_is_accepted_and_survives_a_restart(tmp_path: Path) -> None:
    """It is on disk before it is served."""
    store = open_store(tmp_path / "p")

    decision = store.apply(*files_of(tmp_path / "new", tiny_policy(base_digest=DIGEST)))

    assert decision.accepted
    assert store.problem == ""
    assert store.current is not None
    assert current(tmp_path / "p").card == store.current.card
    assert [card.version for card in store.versions()] == [1]


@pytest.mark.parametrize(("nudge", "accepted"), [(0.05, True), (3.0, False)])
def test_an_update_is_measured(tmp_path: Path, nudge: float, accepted: bool) -> None:
    """Within the trust region it is served; outside, the old policy stays."""
    install(tmp_path / "p", tiny_policy(base_digest=DIGEST))
    store = open_store(tmp_path / "p")
    assert store.current is not None

    decision = store.apply(*files_of(tmp_path / "new", update_of(store.current, nudge)))

    assert decision.accepted == accepted
    assert (0 < decision.distance <= TRUST_REGION) == accepted
    assert decision.largest >= decision.distance
    assert accepted or "trust region" in decision.reason
    assert current(tmp_path / "p").card.version == 1 + accepted
    assert not list((tmp_path / "p").glob(".incoming*"))


@pytest.mark.parametrize(
    ("changes", "field"), [({"parent": "c" * 64}, "parent"), ({"version": 1}, "version")]
)
def test_an_update_continues_the_current_version(
    tmp_path: Path, changes: dict[str, object], field: str
) -> None:
    """An update of another parent, or with a used number, is refused."""
    install(tmp_path / "p", tiny_policy(base_digest=DIGEST))
    store = open_store(tmp_path / "p")
    assert store.current is not None

    decision = store.apply(*files_of(tmp_path / "new", update_of(store.current, 0.01, **changes)))

    assert decision.reason.startswith(field)


def test_an_update_of_other_actions_is_refused(tmp_path: Path) -> None:
    """There is no distance between policies of other actions."""
    install(tmp_path / "p", tiny_policy(base_digest=DIGEST))
    store = open_store(tmp_path / "p")
    assert store.current is not None
    other = tiny_policy(
        base_digest=DIGEST,
        version=2,
        parent=store.current.card.sha256,
        actions=DEFAULT_ACTIONS[:6],
    )

    assert "actions" in store.apply(*files_of(tmp_path / "new", other)).reason


def test_files_that_are_no_policy_are_refused(tmp_path: Path) -> None:
    """Tampered tensors, another base and other widths are errors, and leave nothing behind."""
    store = open_store(tmp_path / "p")
    card, tensors = files_of(tmp_path / "new", tiny_policy(base_digest=DIGEST))

    with pytest.raises(ArtifactTamperedError):
        store.apply(card, tensors[:-1] + b"x")
    with pytest.raises(ArtifactFormatError):
        store.apply("{}", tensors)
    with pytest.raises(BaseMismatchError):
        store.apply(*files_of(tmp_path / "base", tiny_policy(base_digest="9" * 64)))
    with pytest.raises(ArtifactFormatError, match="width"):
        store.apply(*files_of(tmp_path / "w", tiny_policy(base_digest=DIGEST, state_width=8)))
    assert store.current is None
    assert not list((tmp_path / "p").iterdir())


def test_versions_are_restored(tmp_path: Path) -> None:
    """An operator returns to any stored version, or to none."""
    install(tmp_path / "p", tiny_policy(base_digest=DIGEST))
    store = open_store(tmp_path / "p")
    assert store.current is not None
    store.apply(*files_of(tmp_path / "new", update_of(store.current, 0.05)))

    store.restore(1)
    assert current(tmp_path / "p").card.version == 1
    store.restore(0)
    assert store.current is None
    assert "operator" in store.problem
    with pytest.raises(NotFoundError, match="stored: 1, 2"):
        store.restore(7)


def test_the_initial_policy_is_served_until_an_update(tmp_path: Path) -> None:
    """It is read-only, listed, measured against, and can be restored."""
    first = save_policy(tmp_path / "first", tiny_policy(base_digest=DIGEST))

    def reopened() -> PolicyStore:
        return PolicyStore(
            tmp_path / "p", initial=tmp_path / "first", base_digest=DIGEST, state_width=32
        )

    store = reopened()
    assert store.current is not None
    assert store.current.card == first
    update = update_of(store.current, 0.05)
    assert store.apply(*files_of(tmp_path / "new", update)).distance > 0
    assert [card.version for card in reopened().versions()] == [1, 2]
    store.restore(1)
    restored = reopened().current
    assert restored is not None
    assert restored.card == first
    store.restore(0)
    assert reopened().current is None


def test_a_broken_policy_keeps_nothing_from_serving(tmp_path: Path) -> None:
    """The store has no policy and the reason; the versions leave the broken folder out."""
    install(tmp_path / "p", tiny_policy(base_digest=DIGEST))
    (tmp_path / "p" / "1" / CARD_FILE).write_text("{")

    store = open_store(tmp_path / "p")

    assert store.current is None
    assert "cannot be served" in store.problem
    assert store.versions() == []


def test_a_pointer_that_is_no_number_is_named(tmp_path: Path) -> None:
    """The file that names the version is checked."""
    (tmp_path / CURRENT).write_text("latest")

    assert "no version number" in open_store(tmp_path).problem


def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    """An update that is not on disk is not served."""
    (tmp_path / "p").write_text("a file")
    store = open_store(tmp_path / "p")

    with pytest.raises(UnavailableError, match="cannot be written"):
        store.apply(*files_of(tmp_path / "new", tiny_policy(base_digest=DIGEST)))
    assert store.current is None
