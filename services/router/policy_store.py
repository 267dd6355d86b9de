"""Policy store: versions of the macro-policy on disk, and the decision about an update.

Each version is a folder named by its number; the file ``current`` holds the number that is served.
An update is measured against the current version before it is stored, and it is served only once
it is on disk. A policy that cannot be read never keeps the router from serving.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from bem.errors import ArtifactFormatError, BemError, InvalidSettingError
from bem.files import write_atomic
from bem.policy.artifact import (
    CARD_FILE,
    POLICY_FORMAT,
    TENSORS_FILE,
    PolicyArtifact,
    PolicyCard,
    read_policy,
)
from bem.policy.planner import policy_distance
from fleet import logs
from fleet.errors import NotFoundError, UnavailableError

CURRENT = "current"
TRUST_REGION = 0.01
"""Largest mean KL divergence of an update from the current policy, nats."""
_LOG = logs.get("router.policy_store")


@dataclass(frozen=True)
class UpdateDecision:
    """Decision about an updated policy.

    Attributes:
        reason: Why it was refused; empty if it is the current version now.
        distance: Mean KL divergence from the current version, nats.
        largest: Largest KL divergence at any state, nats.
    """

    reason: str
    distance: float = 0.0
    largest: float = 0.0

    @property
    def accepted(self) -> bool:
        """Whether the update is the current version now."""
        return not self.reason


class PolicyStore:
    """Versions of the policy of one base model.

    Args:
        folder: Folder of the versions; it may be missing.
        initial: Folder with the policy that is served before any update; it may be missing.
        base_digest: SHA-256 of the base model.
        state_width: Width of the prompt states that the engine reports.
        trust_region: Bound of the mean divergence of an update, nats.

    Attributes:
        current: Policy that is served; None for none.
        problem: Why no policy is served; empty if one is.
    """

    def __init__(
        self,
        folder: Path,
        *,
        initial: Path | None = None,
        base_digest: str,
        state_width: int,
        trust_region: float = TRUST_REGION,
    ) -> None:
        self.trust_region = trust_region
        self.current: PolicyArtifact | None = None
        self.problem = f"there is no policy in {(initial or folder).name}"
        self._folder = folder
        self._initial = initial
        self._base_digest = base_digest
        self._state_width = state_width
        try:
            if chosen := self._chosen():
                self.current, self.problem = self._read(chosen), ""
        except (BemError, NotFoundError, OSError) as err:
            self.problem = f"the policy cannot be served: {err}"
            _LOG.warning("policy rejected", reason=self.problem)

    def versions(self) -> list[PolicyCard]:
        """Return the cards of the stored versions, rising; unreadable folders are left out."""
        return [card for card, _ in self._stored()]

    def apply(self, card: str, tensors: bytes) -> UpdateDecision:
        """Decide about an update, and serve it if it is accepted; blocks.

        The first policy has nothing to be measured against and is accepted.

        Args:
            card: Card of the policy, JSON.
            tensors: Tensors of the policy, safetensors.

        Raises:
            ArtifactFormatError: The files are no policy.
            ArtifactTamperedError: The hashes do not match.
            BaseMismatchError: The policy belongs to another base model.
            UnavailableError: The folder cannot be written.
        """
        incoming = self._folder / f".incoming-{os.getpid()}"
        try:
            incoming.mkdir(parents=True, exist_ok=True)
            (incoming / CARD_FILE).write_text(card, encoding="utf-8")
            (incoming / TENSORS_FILE).write_bytes(tensors)
            update = self._read(incoming)
            decision = self._decide(update)
            if decision.accepted:
                number = update.card.version
                incoming.rename(self._folder / str(number))
                self._point_to(number)
                self.current, self.problem = update, ""
        except OSError as err:
            raise UnavailableError(f"policy folder: cannot be written: {err.strerror}") from err
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        _LOG.info(
            "policy update",
            version=update.card.version,
            accepted=decision.accepted,
            distance=decision.distance,
            reason=decision.reason or None,
        )
        return decision

    def restore(self, version: int) -> None:
        """Serve a stored version, or none for 0; blocks.

        Raises:
            NotFoundError: There is no such version.
            BemError: The version cannot be read.
            UnavailableError: The folder cannot be written.
        """
        restored = None
        if version:
            restored = self._read(self._find(version))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._point_to(version)
        except OSError as err:
            raise UnavailableError(f"policy folder: cannot be written: {err.strerror}") from err
        self.current = restored
        self.problem = "" if restored else "an operator removed the policy"
        _LOG.info("policy restored", version=version)

    def _decide(self, update: PolicyArtifact) -> UpdateDecision:
        known = {card.version for card in self.versions()}
        if update.card.version <= max(known, default=0):
            return UpdateDecision(
                f"version: {update.card.version} is not above {max(known)}, the newest one"
            )
        if self.current is None:
            return UpdateDecision("")
        if update.card.parent != self.current.card.sha256:
            return UpdateDecision(
                f"parent: {update.card.parent[:12] or 'none'} is not the current version "
                f"{self.current.card.sha256[:12]}; train the update from the current version"
            )
        try:
            mean, largest = policy_distance(self.current, update)
        except InvalidSettingError as err:
            return UpdateDecision(str(err))
        if not mean <= self.trust_region:  # NaN is refused too
            return UpdateDecision(
                f"distance: {mean:.4g} nats is outside the trust region of {self.trust_region:g}; "
                "take a smaller step",
                mean,
                largest,
            )
        return UpdateDecision("", mean, largest)

    def _read(self, folder: Path) -> PolicyArtifact:
        found = read_policy(folder, base_digest=self._base_digest)
        if found.projection.state_width != self._state_width:
            raise ArtifactFormatError(
                f"policy: it reads states of width {found.projection.state_width}; the base model "
                f"has {self._state_width}; train it for this base model"
            )
        return found

    def _stored(self) -> list[tuple[PolicyCard, Path]]:
        """Return card and folder of each readable version, rising."""
        found: dict[int, tuple[PolicyCard, Path]] = {}
        folders = [self._initial] if self._initial and self._initial.is_dir() else []
        if self._folder.is_dir():
            folders += [one for one in self._folder.iterdir() if one.name.isdecimal()]
        for folder in folders:
            try:
                card = POLICY_FORMAT.read_card(folder)
            except BemError as err:
                _LOG.warning("policy version rejected", folder=folder.name, reason=str(err))
            else:
                found[card.version] = card, folder
        return [found[number] for number in sorted(found)]

    def _find(self, version: int) -> Path:
        stored = {card.version: folder for card, folder in self._stored()}
        if version not in stored:
            known = ", ".join(map(str, stored)) or "none"
            raise NotFoundError(f"version: there is no policy {version}; stored: {known}")
        return stored[version]

    def _chosen(self) -> Path | None:
        """Return the folder of the version to serve; None for none."""
        path = self._folder / CURRENT
        if not path.is_file():
            initial = self._initial
            return initial if initial and (initial / CARD_FILE).is_file() else None
        text = path.read_text(encoding="utf-8").strip()
        if not text.isdecimal():
            raise ArtifactFormatError(f"{CURRENT}: {text[:20]!r} is no version number")
        return self._find(int(text)) if int(text) else None

    def _point_to(self, number: int) -> None:
        write_atomic(self._folder / CURRENT, f"{number}\n".encode())
