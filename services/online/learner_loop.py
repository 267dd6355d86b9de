"""Learner loop: one process at a time consumes feedback, learns, promotes and takes back.

A lease in Redis says which process learns. All processes look for the live version at each round
and serve it. An error of Redis or of one family delays a round and loses nothing: feedback is
acknowledged with its effect, and what is learned next follows from what is stored.
"""

import asyncio
import contextlib
import uuid

from bem.errors import BemError
from bem_fleet.feedback.consumer import FeedbackConsumer
from bem_fleet.services.online.learning import Learning
from bem_fleet.services.online.metrics import FAILED, LEARNS, ROLLBACKS
from bem_fleet.services.online.version_record import BASE, LEARNER, VersionRecord, VersionState
from bem_fleet.services.online.version_rollout import VersionRollout
from bem_fleet.services.online.version_watch import LikelihoodWatch
from fleet import logs
from fleet.errors import FailedPreconditionError, FleetError, NotFoundError, UnavailableError

_LOG = logs.get("online.loop")
_LEASE_ROUNDS = 10
_LEAST_LEASE_S = 15.0


class LearnerLoop:
    """Runs the learner of one process.

    Args:
        rollout: Decisions about versions.
        learning: Learns families of feedback.
        consumer: Consumer of the feedback queue.
        watch: Likelihood of answers.
        poll_s: Time between two rounds, in seconds.

    Attributes:
        learns: Whether this process learns now.
        problem: Why the last round failed; empty if it did not.
    """

    def __init__(
        self,
        rollout: VersionRollout,
        learning: Learning,
        consumer: FeedbackConsumer,
        watch: LikelihoodWatch,
        poll_s: float,
    ) -> None:
        self.learns, self.problem = False, ""
        self._rollout, self._learning, self._consumer = rollout, learning, consumer
        self._watch, self._poll_s = watch, poll_s
        self._holder = uuid.uuid4().hex
        self._lease_s = max(_LEAST_LEASE_S, _LEASE_ROUNDS * poll_s)

    async def run(self, *, learns: bool = True) -> None:
        """Keep the lease and learn until the task is cancelled.

        Args:
            learns: Whether this process may learn; else it serves what others learn.
        """
        tasks: list[asyncio.Task[None]] = []
        try:
            while True:
                self.learns = await self._has_lease(learns=learns)
                LEARNS.set(self.learns)
                if self.learns and not tasks:
                    tasks = [
                        asyncio.create_task(one) for one in (self._consumer.run(), self._rounds())
                    ]
                elif not self.learns and tasks:
                    await _end(tasks)
                    tasks = []
                for one in tasks:
                    if one.done():
                        one.result()
                await asyncio.sleep(self._poll_s)
        finally:
            await _end(tasks)

    async def round(self) -> VersionRecord | None:
        """Take back a version that should not be live, or learn and promote the next one.

        Returns:
            The version that was learned; None if there was nothing to learn.

        Raises:
            FleetError: Redis or the engine does not answer, or the state changed meanwhile.
        """
        store = self._rollout.store
        live = await store.live()
        if live and (reason := await self._should_be_taken_back(live)):
            await self._take_back(live, reason)
            ROLLBACKS.labels(reason.partition(":")[0]).inc()
            return None
        made = await self._learning.next_version()
        if made is None or made.state is not VersionState.SHADOW or await store.is_held():
            return made
        return await self._rollout.promote(made.number, LEARNER, "passed the gate")

    async def _take_back(self, live: int, reason: str) -> None:
        """Restore the parent of the live version; the base model if the parent is withdrawn."""
        record = await self._rollout.store.record(live)
        try:
            await self._rollout.restore(record.parent, LEARNER, reason)
        except (FailedPreconditionError, NotFoundError):
            await self._rollout.restore(BASE, LEARNER, f"{reason}; its parent is withdrawn")

    async def _should_be_taken_back(self, live: int) -> str:
        if alarm := self._watch.alarm():
            return alarm
        return await self._learning.regretted(await self._rollout.store.record(live))

    async def _rounds(self) -> None:
        while True:
            try:
                made = await self.round()
                self.problem = ""
            except (FleetError, BemError) as err:
                made, self.problem = None, str(err)
                FAILED.labels(type(err).__name__).inc()
                _LOG.warning("nothing was learned", reason=self.problem)
            except Exception as err:  # noqa: BLE001 - requests are served whatever a lesson does
                made, self.problem = None, f"a lesson failed ({type(err).__name__}); see the log"
                FAILED.labels(type(err).__name__).inc()
                _LOG.error("a lesson failed", exc_info=err)
            if made is None:
                await asyncio.sleep(self._poll_s)

    async def _has_lease(self, *, learns: bool) -> bool:
        """Serve the live version, and return whether this process may learn."""
        try:
            await self._rollout.refresh()
        except (FleetError, BemError) as err:
            self.problem = str(err)
            _LOG.warning("the earlier version is served on", reason=self.problem)
        if not learns:
            return False
        try:
            return await self._rollout.store.lease(self._holder, self._lease_s)
        except UnavailableError:
            return self.learns  # without Redis no other process has it either


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
