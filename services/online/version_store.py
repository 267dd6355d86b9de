"""Version store in Redis: numbered codebooks with their records, and which one is live.

Codebooks are kept as the bytes of their artifacts, which are verified whenever they are read: a
restored version has the same bits. A version becomes live by one script, which refuses it if
another one became live or a user was forgotten since it was judged.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

from bem.online.artifact import (
    CODEBOOK_CARD,
    CODEBOOK_TENSORS,
    BankArtifact,
    CodebookCard,
    read_codebook,
    save_codebook,
)
from bem.online.codebook import Codebook
from bem_fleet.feedback.redis_keys import STREAM
from bem_fleet.services.online.version_record import (
    BASE,
    VersionRecord,
    VersionState,
    parse_version,
)
from fleet.errors import FailedPreconditionError, NotFoundError
from fleet.redis_pipe import RedisPipe

PREFIX = "bem:online"
KEYS = tuple(f"{PREFIX}:{part}" for part in ("state", "versions", "cards", "tensors", "learner"))
"""Keys: numbers and hold; records; cards; tensors; lease of the process that learns."""

TIMEOUT_S = 5.0
_STATE, _VERSIONS, _CARDS, _TENSORS, _LEASE = KEYS
_ADD = """
if tonumber(redis.call('HGET', KEYS[1], 'newest') or '0') + 1 ~= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'newest', ARGV[1])
for n = 2, 4 do redis.call('HSET', KEYS[n], ARGV[1], ARGV[n]) end
return 1
"""
# ARGV: expected live version, forgetting that was checked, new live version, then pairs of a
# number and a record.
_SWITCH = """
if (redis.call('HGET', KEYS[1], 'live') or '0') ~= ARGV[1] then return 'live' end
if ARGV[2] ~= '' and (redis.call('GET', KEYS[3]) or '0') ~= ARGV[2] then return 'forgotten' end
redis.call('HSET', KEYS[1], 'live', ARGV[3])
for n = 4, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[n], ARGV[n + 1]) end
return 'done'
"""
_RENEW = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


class VersionStore:
    """Versions of one bank.

    Args:
        redis_url: URL of a Redis that runs with ``appendfsync always``.
        artifact: Bank of the codebooks.
    """

    def __init__(self, redis_url: str, artifact: BankArtifact) -> None:
        self.artifact = artifact
        self._pipe = RedisPipe(redis_url, TIMEOUT_S, "versions")

    async def add(self, record: VersionRecord, codebook: Codebook) -> VersionRecord:
        """Store a new version in shadow and return its record with number and digest.

        Raises:
            FailedPreconditionError: Another process added a version meanwhile.
            UnavailableError: Redis did not acknowledge it; it may or may not be stored.
        """
        number = 1 + await self.newest()
        bank = self.artifact.card
        card = CodebookCard(
            base_name=bank.base_name,
            base_digest=bank.base_digest,
            feature_layer=bank.feature_layer,
            command=bank.command,
            data_digest=bank.data_digest,
            seed=bank.seed,
            version=number,
            parent=await self._digest(record.parent),
            bank=bank.sha256,
        )
        with tempfile.TemporaryDirectory() as name:
            sealed = save_codebook(Path(name), card, codebook)
            parts = [(Path(name) / one).read_bytes() for one in (CODEBOOK_CARD, CODEBOOK_TENSORS)]
        made = replace(record, digest=sealed.sha256, number=number)
        text = made.to_json()
        if not await self._pipe.call("EVAL", _ADD, 4, *KEYS[:4], number, text, *parts):
            raise FailedPreconditionError(
                f"version: {number} was made by another process meanwhile; repeat the call"
            )
        return made

    async def codebook(self, number: int) -> Codebook:
        """Return the codebook of a version, verified; that of the base model is empty.

        Raises:
            NotFoundError: There is no such version, or its codes were removed.
            ArtifactTamperedError: It was changed in Redis.
            BaseMismatchError: It was learned with another bank.
        """
        if number == BASE:
            return self.artifact.empty_codebook()
        card = await self._pipe.call("HGET", _CARDS, number)
        tensors = await self._pipe.call("HGET", _TENSORS, number)
        if card is None or tensors is None:
            raise NotFoundError(f"version: {number} has no codes; `fleetctl versions list` has all")
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / CODEBOOK_CARD).write_bytes(card)
            (Path(name) / CODEBOOK_TENSORS).write_bytes(tensors)
            return read_codebook(Path(name), self.artifact)[0]

    async def records(self) -> list[VersionRecord]:
        """Return all records, oldest first."""
        found = await self._pipe.call("HGETALL", _VERSIONS)
        return sorted((parse_version(one) for one in found[1::2]), key=lambda one: one.number)

    async def record(self, number: int) -> VersionRecord:
        """Return one record.

        Raises:
            NotFoundError: There is no such version.
        """
        found = await self._pipe.call("HGET", _VERSIONS, number)
        if found is None:
            raise NotFoundError(
                f"version: there is no version {number}; the newest is {await self.newest()}"
            )
        return parse_version(found)

    async def live(self) -> int:
        """Return the number of the live version; 0 is the base model."""
        return int(await self._pipe.call("HGET", _STATE, "live") or BASE)

    async def newest(self) -> int:
        """Return the number of the newest version; 0 for none."""
        return int(await self._pipe.call("HGET", _STATE, "newest") or 0)

    async def is_held(self) -> bool:
        """Return whether promotions are held."""
        return bool(int(await self._pipe.call("HGET", _STATE, "held") or 0))

    async def hold(self, *, held: bool) -> None:
        """Hold promotions, or let them go on."""
        await self._pipe.call("HSET", _STATE, "held", int(held))

    async def save(self, record: VersionRecord) -> None:
        """Replace the record of a version."""
        await self._pipe.call("HSET", _VERSIONS, record.number, record.to_json())

    async def switch(
        self, live: int, *records: VersionRecord, expected: int, forgotten: int | None = None
    ) -> None:
        """Make a version live and store the records that change by it, all or nothing.

        Args:
            live: Number of the version; 0 is the base model.
            records: Records to store.
            expected: Version that is live until then.
            forgotten: Number of the last forgetting that was checked; None checks none.

        Raises:
            FailedPreconditionError: Another version is live, or a user was forgotten meanwhile.
        """
        pairs = [part for one in records for part in (one.number, one.to_json())]
        checked = "" if forgotten is None else forgotten
        outcome = await self._pipe.call(
            *("EVAL", _SWITCH, 3, _STATE, _VERSIONS, f"{STREAM}:forgotten"),
            *(expected, checked, live, *pairs),
        )
        if outcome == b"live":
            raise FailedPreconditionError(
                f"version: {expected} is not live any more; look again and repeat the call"
            )
        if outcome == b"forgotten":
            raise FailedPreconditionError(
                "version: a user was forgotten meanwhile; look again and repeat the call"
            )

    async def withdraw(self, record: VersionRecord, reason: str) -> None:
        """Remove the codes of a version and say why in its record."""
        await self._pipe.call("HDEL", _CARDS, record.number)
        await self._pipe.call("HDEL", _TENSORS, record.number)
        await self.save(record.decided("withdraw", "forgetting", reason, VersionState.WITHDRAWN))

    async def lease(self, holder: str, lasting_s: float) -> bool:
        """Take or renew the lease of the process that learns; return whether it has it."""
        return bool(await self._pipe.call("EVAL", _RENEW, 1, _LEASE, holder, int(1000 * lasting_s)))

    def close(self) -> None:
        """Close the connection."""
        self._pipe.close()

    async def _digest(self, number: int) -> str:
        return (await self.record(number)).digest if number else ""
