"""Version rollout: what makes a version live, takes it back, and forgets a user.

Operators and the learner use the same calls. Every change is one script of the version store; the
process then serves what Redis says, as all others do at their next look.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from bem_fleet.feedback.forgetting import Forgetter, Lineage
from bem_fleet.services.online.answering import Answering
from bem_fleet.services.online.metrics import CONDITIONS, DECISIONS, LIVE
from bem_fleet.services.online.served_codes import CodeAdapters
from bem_fleet.services.online.version_record import BASE, VersionRecord, VersionState
from bem_fleet.services.online.version_store import VersionStore
from fleet import logs
from fleet.errors import FailedPreconditionError

_LOG = logs.get("online.versions")
_RESTORABLE = (VersionState.RETIRED, VersionState.ROLLED_BACK)


@dataclass(frozen=True)
class Forgotten:
    """What a forgetting changed.

    Attributes:
        removed: Entries, dead letters and events that were removed.
        withdrawn: Numbers of the versions that were withdrawn.
        live: Number of the version that is live now.
    """

    removed: int
    withdrawn: tuple[int, ...]
    live: int


class VersionRollout:
    """Decisions about versions.

    Args:
        store: Versions in Redis.
        forgetter: Forgets users and checks lineages.
        answering: Receives what is served.
        adapters: Loads the codes of a version.

    Attributes:
        store: Versions in Redis.
        on_forgotten: Called after a user was forgotten.
        on_promoted: Called with the condition that a promoted version changed.
    """

    def __init__(
        self,
        store: VersionStore,
        forgetter: Forgetter,
        answering: Answering,
        adapters: CodeAdapters,
    ) -> None:
        self.store = store
        self.on_forgotten: Callable[[], None] = lambda: None
        self.on_promoted: Callable[[str], None] = lambda condition: None  # noqa: ARG005
        self._forgetter, self._answering, self._adapters = forgetter, answering, adapters
        self._changing, self._installing = asyncio.Lock(), asyncio.Lock()

    async def refresh(self) -> int:
        """Serve the live version; return its number.

        Raises:
            BemError: The codes cannot be served; the earlier version is served on.
            UnavailableError: Redis does not answer.
        """
        async with self._installing:
            live = await self.store.live()
            served = self._answering.served
            if served is None or served.version != live:
                codebook = await self.store.codebook(live)
                self._answering.served = await self._adapters.install(live, codebook)
                CONDITIONS.set(len(codebook.conditions))
                LIVE.set(live)
                _LOG.info("version served", version=live, conditions=len(codebook.conditions))
            return live

    async def promote(self, number: int, by: str, reason: str) -> VersionRecord:
        """Make a version live that waits in shadow.

        Raises:
            NotFoundError: There is no such version.
            FailedPreconditionError: It is not in shadow, was learned from another version than the
                live one, or from feedback that was forgotten.
        """
        async with self._changing:
            record = await self.store.record(number)
            live = await self.store.live()
            if record.state is not VersionState.SHADOW:
                raise FailedPreconditionError(
                    f"version: {number} is {record.state}; only a version in shadow is promoted"
                )
            if record.parent != live:
                raise FailedPreconditionError(
                    f"version: {number} was learned from {record.parent}, and {live} is live; "
                    "restore its parent first, or wait for the next version"
                )
            lineage = await self._valid_lineage(record)
            made = record.decided("promote", by, reason, VersionState.LIVE)
            await self.store.switch(
                number,
                made,
                *await self._ended(live, VersionState.RETIRED, f"version {number} is live"),
                expected=live,
                forgotten=lineage.forgotten,
            )
            DECISIONS.labels("promote").inc()
            await self.refresh()
            self.on_promoted(made.changed)
            return made

    async def restore(self, number: int, by: str, reason: str) -> int:
        """Make a version live that was live before, or the base model; return its number.

        Raises:
            NotFoundError: There is no such version.
            FailedPreconditionError: It was never live, or was learned from feedback that was
                forgotten.
        """
        async with self._changing:
            live, records = await self.store.live(), []
            if number == live:
                return live
            forgotten = None
            if number != BASE:
                record = await self.store.record(number)
                if record.state not in _RESTORABLE:
                    raise FailedPreconditionError(
                        f"version: {number} is {record.state}; only a version that was live is "
                        "restored"
                    )
                forgotten = (await self._valid_lineage(record)).forgotten
                records.append(record.decided("restore", by, reason, VersionState.LIVE))
            ended = await self._ended(live, VersionState.ROLLED_BACK, reason, by)
            await self.store.switch(number, *records, *ended, expected=live, forgotten=forgotten)
            DECISIONS.labels("restore").inc()
            _LOG.warning("version restored", version=number, instead_of=live, by=by, reason=reason)
            return await self.refresh()

    async def forget(self, user: str, by: str) -> Forgotten:
        """Forget a user: remove the feedback and all versions that were learned from it.

        The conditions that the user taught answer as the base model does, until they are learned
        anew from the feedback of the others.

        Args:
            user: Pseudonym of the user.
            by: Who asked for it.

        Raises:
            InvalidArgumentError: The pseudonym is malformed.
            UnavailableError: Redis did not answer; a repeated call completes it.
        """
        async with self._changing:
            done = await self._forgetter.forget(user)
            records = await self.store.records()
            gone = {one.number: await self._forgetter.gone(_lineage(one)) for one in records}
            live = await self.store.live()
            if gone.get(live):
                live = await self._without(live, gone[live], by)
            withdrawn = []
            for one in records:
                if gone[one.number] and one.state is not VersionState.WITHDRAWN:
                    await self.store.withdraw(one, "was learned from forgotten feedback")
                    withdrawn.append(one.number)
            self.on_forgotten()
            await self.refresh()
            await self._forgetter.rewrite_file()
        DECISIONS.labels("forget").inc()
        removed = done.queued + done.dead_letters + done.events
        return Forgotten(removed, tuple(withdrawn), live)

    async def _without(self, live: int, gone: frozenset[str], by: str) -> int:
        """Make a version live without the conditions that forgotten events taught."""
        record, codebook = await self.store.record(live), await self.store.codebook(live)
        taught = [name for name in record.lineage if record.events(name) & gone]
        for name in taught:
            codebook = codebook.without(name)
        kept = {name: one for name, one in record.lineage.items() if name not in taught}
        made = VersionRecord(
            parent=live,
            changed=taught[0],
            digest="",
            lineage=kept,
            forgotten=record.forgotten,
            users={name: one for name, one in record.users.items() if name in kept},
        )
        lineage = await self._forgetter.check_lineage(_lineage(made))
        stored = await self.store.add(made, codebook)
        reason = f"forgotten feedback taught {len(taught)} conditions of version {live}"
        await self.store.switch(
            stored.number,
            stored.decided("withdraw", by, reason, VersionState.LIVE),
            expected=live,
            forgotten=lineage.forgotten,
        )
        return stored.number

    async def _valid_lineage(self, record: VersionRecord) -> Lineage:
        """Return the lineage of a record as of now; it is withdrawn if users were forgotten."""
        try:
            return await self._forgetter.check_lineage(_lineage(record))
        except FailedPreconditionError as err:
            await self.store.withdraw(record, str(err))
            raise

    async def _ended(
        self, live: int, state: VersionState, reason: str, by: str = "learner"
    ) -> list[VersionRecord]:
        if live == BASE:
            return []
        action = "retire" if state is VersionState.RETIRED else "roll back"
        return [(await self.store.record(live)).decided(action, by, reason, state)]


def _lineage(record: VersionRecord) -> Lineage:
    return Lineage(record.events(), record.forgotten)
