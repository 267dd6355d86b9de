"""Safety strength by tenant: set by operators, stored in Redis, sent to the mission as a header.

The mission reads ``bem-safety-strength``, a number from 0 to 1. A client can raise the strength of
its own request with that header, but never lower it below its tenant's; an operator can set any
strength for its own request down to the floor. Where operators have set nothing, the mission's own
default applies, which the sidecar does not know: it sends ``bem-safety-minimum`` instead.
"""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass

from bem_fleet.services.safety.settings import SafetySettings
from fleet import logs
from fleet.errors import InvalidArgumentError, UnavailableError
from fleet.redis_pipe import RedisPipe
from fleet.streams import TIMEOUT_S
from fleet.wire import SAFETY_STRENGTH

_LOG = logs.get("safety.strength")
# Fields of the Redis hash; a tenant's field is "tenant:" and its name.
_DEFAULT, _FLOOR = "all", "floor"


@dataclass(frozen=True)
class SafetyStrength:
    """Strength of one request.

    Attributes:
        value: Strength, 0 to 1; None if the mission's own default applies.
        minimum: Least strength where the default applies, 0 to 1.
    """

    value: float | None = None
    minimum: float = 0.0


class SafetyStrengthStore:
    """Safety strengths of all tenants, refreshed from Redis.

    Args:
        settings: Redis address and key of the strengths.
        interval_s: Seconds between two refreshes; bounds the delay of another sidecar's change.
    """

    def __init__(self, settings: SafetySettings, interval_s: float = 0.5) -> None:
        self._pipe = RedisPipe(settings.redis_url, TIMEOUT_S, "strength")
        self._key = settings.strength_key
        self._interval_s = interval_s
        self._values: Mapping[str, float] = {}

    @property
    def floor(self) -> float:
        """Lowest strength of any request, 0 to 1."""
        return self._values.get(_FLOOR, 0.0)

    def resolve(
        self, tenant: str = "", requested: str | None = None, *, may_lower: bool = False
    ) -> SafetyStrength:
        """Return the strength of one request.

        The tenant's value comes before the default of all tenants; the request can raise it, and
        the floor bounds the result. Example: a default of 0.25, 0.75 for tenant "acme" and a floor
        of 0.1 give "acme" 0.75, also if it requests 0, and 0.9 if it requests 0.9. An operator who
        requests 0 gets 0.1.

        Args:
            tenant: Tenant of the caller's key; empty for none.
            requested: Value of the request's own header; None if it has none.
            may_lower: Whether the request may go below its tenant's value: it is an operator's.

        Raises:
            InvalidArgumentError: The header is not a number from 0 to 1.
        """
        own = None if requested is None else parse_strength(SAFETY_STRENGTH, requested)
        base = self._values.get(f"tenant:{tenant}", self._values.get(_DEFAULT))
        if own is not None and may_lower:
            return SafetyStrength(max(own, self.floor))
        if base is None:
            return SafetyStrength(minimum=max(own or 0.0, self.floor))
        return SafetyStrength(max(own or 0.0, base, self.floor))

    async def store(self, tenant: str, value: float, floor: float | None) -> None:
        """Store a strength for all sidecars.

        Args:
            tenant: Tenant; empty for the default of all tenants.
            value: Strength, 0 to 1.
            floor: New floor, 0 to 1; None keeps the present one.

        Raises:
            UnavailableError: Redis did not store it.
        """
        name = f"tenant:{tenant}" if tenant else _DEFAULT
        fields = [name, f"{value:.6g}", *([] if floor is None else [_FLOOR, f"{floor:.6g}"])]
        await self._pipe.call("HSET", self._key, *fields)
        await self.refresh()

    async def refresh(self) -> None:
        """Read all strengths from Redis.

        Raises:
            UnavailableError: Redis is not reachable; the known strengths stay in force.
        """
        flat = [part.decode() for part in await self._pipe.call("HGETALL", self._key)]
        self._values = {n: float(v) for n, v in zip(flat[::2], flat[1::2], strict=True)}

    async def run(self) -> None:
        """Refresh periodically; ends when cancelled."""
        while True:
            try:
                await self.refresh()
            except UnavailableError as err:
                _LOG.warning("strengths not refreshed", reason=str(err))
            await asyncio.sleep(self._interval_s)

    async def close(self) -> None:
        """Close the Redis connection."""
        self._pipe.close()


def parse_strength(name: str, value: str | float) -> float:
    """Return a validated strength.

    Args:
        name: Field or header that holds the value, for the error.
        value: Number or its text.

    Raises:
        InvalidArgumentError: The value is not a number from 0 to 1.
    """
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise InvalidArgumentError(name, f"must be a number from 0 to 1, is {str(value)[:32]!r}")
    return number
