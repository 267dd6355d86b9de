"""The strength of the safety adapter: set by operators, kept in Redis, handed to the mission.

The mission reads the header ``bem-safety-strength``, a number from 0 to 1; what a client sends there
can raise its own request's strength, never put it below the operator's floor.
"""

import asyncio
import hashlib
import hmac
import math
from collections.abc import Mapping

from bem_fleet.services.safety.settings import SafetySettings
from fleet import logs
from fleet.errors import DeniedError, InvalidArgumentError, UnavailableError
from fleet.redis_pipe import RedisPipe
from fleet.streams import TIMEOUT_S

HEADER, TENANT = "bem-safety-strength", "bem-tenant"
_LOG = logs.get("safety.strength")
_ALL, _FLOOR = "all", "floor"


class SafetyStrengthStore:
    """Strengths of all tenants, as they stand in Redis.

    Args:
        settings: Where Redis is, under which key the strengths lie, and whose word counts.
        interval_s: Time after which another sidecar's change is seen here.
    """

    def __init__(self, settings: SafetySettings, interval_s: float = 0.5) -> None:
        self._pipe = RedisPipe(settings.redis_url, TIMEOUT_S, "strength")
        self._key = settings.strength_key
        self._operator = settings.operator_key_sha256
        self._interval_s = interval_s
        self._values: Mapping[str, float] = {}

    @property
    def floor(self) -> float:
        """Least value of any request."""
        return self._values.get(_FLOOR, 0.0)

    def value(self, tenant: str = "", asked: str | None = None) -> float | None:
        """Return the strength of one request; None where nobody set any, so that the mission's holds.

        Args:
            tenant: Whose request; empty for nobody's.
            asked: What the request's own header says, or None.

        Raises:
            InvalidArgumentError: The header is no number from 0 to 1.
        """
        held = self._values.get(f"tenant:{tenant}", self._values.get(_ALL))
        wanted = held if asked is None else checked(HEADER, asked)
        if wanted is None:
            return self._values.get(_FLOOR)
        return max(wanted, self.floor)

    def authorize(self, given: str) -> None:
        """Check an operator's key.

        Raises:
            DeniedError: It is not the one whose hash is set, or none is set.
        """
        digest = hashlib.sha256(given.encode()).hexdigest()
        if not self._operator or not hmac.compare_digest(digest, self._operator):
            why = "no operator key is set" if not self._operator else "the operator key is wrong"
            raise DeniedError(f"SetStrength is for operators: {why}", "NOT_AN_OPERATOR", {})

    async def store(self, tenant: str, value: float, floor: float | None) -> None:
        """Keep a value where every sidecar sees it.

        Raises:
            UnavailableError: Redis did not take it.
        """
        name = f"tenant:{tenant}" if tenant else _ALL
        pairs = [name, f"{value:.6g}", *([] if floor is None else [_FLOOR, f"{floor:.6g}"])]
        await self._pipe.call("HSET", self._key, *pairs)
        await self.refresh()

    async def refresh(self) -> None:
        """Read all strengths.

        Raises:
            UnavailableError: Redis cannot be reached; what was known stays.
        """
        flat = [part.decode() for part in await self._pipe.call("HGETALL", self._key)]
        self._values = {n: float(v) for n, v in zip(flat[::2], flat[1::2], strict=True)}

    async def run(self) -> None:
        """Read them again and again; ends when cancelled."""
        while True:
            try:
                await self.refresh()
            except UnavailableError as err:
                _LOG.warning("strengths not read", reason=str(err))
            await asyncio.sleep(self._interval_s)

    async def close(self) -> None:
        """Close the connection."""
        self._pipe.close()


def checked(name: str, value: str | float) -> float:
    """Return a strength's value.

    Raises:
        InvalidArgumentError: It is no number from 0 to 1.
    """
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise InvalidArgumentError(name, f"must be a number from 0 to 1, is {str(value)[:32]!r}")
    return number
