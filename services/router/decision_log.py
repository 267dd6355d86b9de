"""Decision log: what the planner decided and what it cost, on a Redis stream, without texts.

Recording never delays a request and never fails one: decisions wait in a bounded queue, and what
Redis does not take is counted and dropped.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any, Protocol

from bem.engine.plan_run import PlanRun
from bem_fleet.services.router.plan_metrics import DECISIONS_DROPPED
from bem_fleet.services.router.planning import PlannedRequest
from fleet import logs
from fleet.access import principal
from fleet.errors import UnavailableError

DECISION_FIELD = "decision"
"""Field of an entry: a JSON object."""
MAX_PENDING = 1024
STREAM_ENTRIES = 100_000
"""About how many newest decisions the stream keeps."""
_LOG = logs.get("router.decision_log")


class Stream(Protocol):
    """A stream that records are appended to."""

    async def append(self, fields: Mapping[str, str | bytes]) -> str:
        """Append one record and return its id."""
        ...


class DecisionLog:
    """Appends decisions to a stream in the background.

    Args:
        stream: Redis stream.

    Attributes:
        available: Whether Redis took the last decision.
    """

    def __init__(self, stream: Stream) -> None:
        self.available = True
        self._stream = stream
        self._pending: asyncio.Queue[str] = asyncio.Queue(MAX_PENDING)

    def record(self, decision: Mapping[str, Any]) -> None:
        """Append a decision soon; returns at once."""
        try:
            self._pending.put_nowait(json.dumps(decision, sort_keys=True))
        except asyncio.QueueFull:
            DECISIONS_DROPPED.inc()

    async def run(self) -> None:
        """Append what is recorded, until the task is cancelled."""
        while True:
            text = await self._pending.get()
            try:
                await self._stream.append({DECISION_FIELD: text})
            except UnavailableError as err:
                DECISIONS_DROPPED.inc()
                if self.available:
                    _LOG.warning("decisions are not recorded", reason=str(err))
                self.available = False
            else:
                self.available = True
            finally:
                self._pending.task_done()

    async def drain(self) -> None:
        """Return when everything recorded so far was appended or dropped."""
        await self._pending.join()


def decision_of(planned: PlannedRequest, run: PlanRun, *, seconds: float) -> dict[str, Any]:
    """Return the decision of a finished request.

    Args:
        planned: Plan and state.
        run: Finished run.
        seconds: Time from the call's arrival to its end.
    """
    caller, choice = principal.get(), planned.choice
    return {
        "request_id": logs.request_id.get(),
        "time_unix_s": round(time.time(), 3),
        "client": caller.name,
        "tenant": caller.tenant,
        "session": _digest(planned.session),
        "source": planned.source,
        "policy_version": planned.policy_version,
        "plan": [str(action) for action in planned.plan],
        "steps": [str(one.action) for one in run.results],
        "features": [round(one, 5) for one in planned.features],
        "step_probabilities": [round(one, 6) for one in choice.step_probabilities]
        if choice
        else [],
        "held": bool(choice and choice.held),
        "replanned": run.replanned,
        "prompt_tokens": sum(one.prompt_tokens for one in run.results),
        "cached_tokens": sum(one.output.cached_tokens for one in run.results),
        "completion_tokens": sum(one.output.completion_tokens for one in run.results),
        "seconds": round(seconds, 4),
    }


def _digest(session: str) -> str:
    """Return a digest of a session, which may name a person; empty for none."""
    return hashlib.sha256(session.encode()).hexdigest()[:16] if session else ""
