"""Learning: from families of feedback to versions in shadow, judged by the gate.

What is learned next follows from the store alone: the live version's lineage, the records of
earlier attempts and the events. A restart therefore goes on where the process was.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from bem.errors import InvalidRequestError
from bem.online.codebook import Codebook
from bem.online.feedback import FeedbackExample
from bem.training.online.code_likelihood import DecoderLikelihood
from bem_fleet.feedback.event_store import EventStore, Family
from bem_fleet.feedback.limits import Quorum
from bem_fleet.services.online.answering import Answering
from bem_fleet.services.online.canary_suite import (
    SuiteItem,
    SuitePrompt,
    SuiteResult,
    compare,
    suite_prompts,
    without_safety_prompts,
)
from bem_fleet.services.online.code_learning import CodeTeacher, Learned, Lesson
from bem_fleet.services.online.family_finder import PromptKeys
from bem_fleet.services.online.feedback_examples import ExampleEncoder
from bem_fleet.services.online.metrics import LEARN_SECONDS, VERSIONS
from bem_fleet.services.online.version_gate import GateLimits, findings
from bem_fleet.services.online.version_record import (
    LEARNER,
    Batches,
    VersionRecord,
    VersionState,
)
from bem_fleet.services.online.version_store import VersionStore
from bem_fleet.services.online.version_watch import regret
from fleet import logs
from fleet.errors import FleetError

_LOG = logs.get("online.learning")
_ANSWER_TOKENS = 24
_IDLE_NICE = 19
T = TypeVar("T")


class LearnerThread:
    """One thread of the lowest priority, in which codes are learned beside the engine."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "bem-learner", _lower_priority)

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Return the result of blocking work."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def close(self) -> None:
        """End the thread after what it is doing."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _lower_priority() -> None:
    # Threads that the thread starts for its matrix products inherit its priority.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _IDLE_NICE)


@dataclass(frozen=True)
class LearningLimits:
    """When something is learned, and what passes.

    Attributes:
        quorum: What a family needs before anything is learned from it.
        update_events: New events after which a family is learned again.
        suite_prompts: Prompts of each part of the canary suite.
        gate: Limits of the gate.
    """

    quorum: Quorum
    update_events: int
    suite_prompts: int
    gate: GateLimits


@dataclass(frozen=True)
class Standing:
    """What the records say of a condition.

    Attributes:
        known: Batches of the live version.
        tried: Events of the newest attempt.
        attempt: Number of the next attempt since one passed, from 1.
    """

    known: Batches
    tried: frozenset[str]
    attempt: int


@dataclass
class LearnerParts:
    """Parts that a lesson goes through.

    Attributes:
        answering: Answers of the engine.
        keys: States of prompts.
        encoder: Makes examples of events.
        teacher: Learns codes.
        model: Likelihoods of codes.
        thread: Thread in which codes are learned.
        suite: Suite with its states; empty until it is needed.
    """

    answering: Answering
    keys: PromptKeys
    encoder: ExampleEncoder
    teacher: CodeTeacher
    model: DecoderLikelihood
    thread: LearnerThread
    suite: list[SuiteItem] = field(default_factory=list)


class Learning:
    """Learns families of feedback.

    Args:
        store: Versions in Redis.
        events: Events of the feedback queue.
        parts: Parts of the model.
        limits: When something is learned, and what passes.

    Attributes:
        lacks: Number of events of each family, and what it lacks for the next change.
    """

    def __init__(
        self,
        store: VersionStore,
        events: EventStore,
        parts: LearnerParts,
        limits: LearningLimits,
    ) -> None:
        self.lacks: dict[str, tuple[int, str]] = {}
        self._store, self._events = store, events
        self._parts, self._limits = parts, limits
        self._useless: dict[str, frozenset[str]] = {}
        self._judged_events: tuple[int, frozenset[str]] = (0, frozenset())

    async def next_version(self) -> VersionRecord | None:
        """Learn the first family that has what it needs; return its judged version, or None.

        The version is in shadow if it passed the gate, and rejected otherwise.

        Raises:
            UnavailableError: Redis or the engine does not answer; nothing is lost.
        """
        records, live = await self._store.records(), await self._store.live()
        lacks: dict[str, tuple[int, str]] = {}
        found: tuple[Family, Standing] | None = None  # the first one that is ready
        for name in await self._events.families():
            family = await self._events.family(name)
            standing = standing_of(name, records, live)
            lack = self._lack(family, standing)
            lacks[name] = len(family.events), lack
            if not lack and found is None:
                found = family, standing
        self.lacks = lacks
        if found is None:
            return None
        family, standing = found
        try:
            return await self._learn(live, family, standing)
        except FleetError:
            raise
        except Exception:
            # The same events would fail again, and other families wait behind them.
            self._useless[family.name] = frozenset(one.identifier for one in family.events)
            raise

    async def regretted(self, record: VersionRecord) -> str:
        """Return why feedback that arrived after a version speaks against it; empty if not.

        Args:
            record: Record of the live version.

        Raises:
            UnavailableError: Redis does not answer.
        """
        name, learned = record.changed, record.events(record.changed)
        if not learned:
            return ""
        family = await self._events.family(name)
        later = [one for one in family.events if one.identifier not in learned]
        seen = record.number, frozenset(one.identifier for one in later)
        if not later or seen == self._judged_events:
            return ""
        self._judged_events = seen
        found = [self._parts.encoder.example(one, name) for one in later]
        examples = [one for one in found if one is not None]
        live, parent = [
            code_of(await self._store.codebook(number), name, self._store.artifact.bank.width)
            for number in (record.number, record.parent)
        ]
        return await self._parts.thread.run(regret, self._parts.model, live, parent, examples)

    def forget(self) -> None:
        """Forget what was kept of events, after a user was forgotten."""
        self._parts.teacher.forget()
        self._useless.clear()

    def _lack(self, family: Family, standing: Standing) -> str:
        if lack := family.shortfall(self._limits.quorum):
            return lack
        present = frozenset(one.identifier for one in family.events)
        if self._useless.get(family.name) == present:
            return "examples: its events teach no reply of two users"
        fresh = present - standing.tried
        needed = self._limits.update_events if standing.tried else 1
        return "" if len(fresh) >= needed else f"events: {len(fresh)} new ones; {needed} are needed"

    async def _learn(self, live: int, family: Family, standing: Standing) -> VersionRecord | None:
        began = time.perf_counter()
        codebook = await self._store.codebook(live)
        lesson = await self._lesson(family, standing, codebook)
        if lesson is None:
            self._useless[family.name] = frozenset(one.identifier for one in family.events)
            return None
        learned = await self._parts.thread.run(self._parts.teacher.teach, lesson)
        suite = await self._suite()
        candidate = without_safety_prompts(codebook.with_condition(learned.condition), suite)
        result = await compare(codebook, candidate, suite, self._reply, self._divergence)
        record = await self._stored(live, family, lesson, candidate)
        wrong = findings(
            learned,
            result,
            candidate.threshold,
            attempt=standing.attempt,
            limits=self._limits.gate,
        )
        judged = await self._judged(record, wrong, learned, result)
        LEARN_SECONDS.observe(time.perf_counter() - began)
        if not wrong:
            for event, gained in learned.gains.items():
                await self._events.settle(event, agreed=gained > 0)
        return judged

    async def _lesson(
        self, family: Family, standing: Standing, codebook: Codebook
    ) -> Lesson | None:
        """Return what to learn of a family; None if its events teach nothing."""
        encoder = self._parts.encoder
        examples = {
            one.identifier: example
            for one in family.events
            if (example := encoder.example(one, family.name)) is not None
        }
        taught = [[examples[one] for one in batch if one in examples] for batch in standing.known]
        known = [batch for batch in taught if batch]
        learned = {event for batch in standing.known for event in batch}
        new = [example for event, example in examples.items() if event not in learned]
        if len({one.user for one in new}) < 2:
            return None
        prompts = {
            one.identifier: one.content["prompt"]
            for one in family.events
            if one.identifier in examples
        }
        center: Sequence[FeedbackExample] = known[0] if known else new
        states = [await self._parts.keys.state(prompts[one.event]) for one in center]
        live = code_of(codebook, family.name, self._store.artifact.bank.width)
        return Lesson(family.name, known, new, torch.stack(states), live)

    async def _suite(self) -> list[SuiteItem]:
        """Return the suite; the states of its prompts are computed once."""
        parts = self._parts
        if not parts.suite:
            prompts = await asyncio.to_thread(suite_prompts, self._limits.suite_prompts)
            items = []
            for one in prompts:
                try:
                    items.append(SuiteItem(one, await parts.keys.state(one.text)))
                except InvalidRequestError:  # longer than the context of a small model
                    continue
            parts.suite = items
        return parts.suite

    async def _reply(self, prompt: SuitePrompt) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return tokens of a prompt and its answer; that of the base model where none is wanted."""
        parts, text = self._parts, prompt.reply
        if not text:
            done = await parts.answering.engine.generate(prompt.text, max_tokens=_ANSWER_TOKENS)
            text = done.text or "."
        return parts.encoder.prompt(prompt.text), parts.encoder.reply(text)

    async def _divergence(
        self, live: torch.Tensor, code: torch.Tensor, examples: Sequence[FeedbackExample]
    ) -> float:
        return await self._parts.thread.run(self._parts.model.divergence, live, code, examples)

    async def _stored(
        self, live: int, family: Family, lesson: Lesson, candidate: Codebook
    ) -> VersionRecord:
        parent = await self._store.record(live) if live else None
        lineage = dict(parent.lineage) if parent else {}
        users = dict(parent.users) if parent else {}
        everyone = {one.user for batch in (*lesson.known, lesson.new) for one in batch}
        made = VersionRecord(
            parent=live,
            changed=family.name,
            digest="",
            lineage={**lineage, family.name: lesson.batches},
            forgotten=min(family.forgotten, parent.forgotten if parent else family.forgotten),
            users={**users, family.name: len(everyone)},
        )
        return await self._store.add(made, candidate)

    async def _judged(
        self, record: VersionRecord, wrong: list[str], learned: Learned, result: SuiteResult
    ) -> VersionRecord:
        """Write the gate's decision into the record of a version."""
        gain = sum(learned.gains.values()) / len(learned.gains)
        figures = f"gain {gain:.3g} nats a token; suite {result.affected}"
        if wrong:
            judged = record.decided(
                "reject", LEARNER, f"{'; '.join(wrong)} ({figures})", VersionState.REJECTED
            )
        else:
            judged = record.decided("pass", LEARNER, figures, VersionState.SHADOW)
        await self._store.save(judged)
        VERSIONS.labels("rejected" if wrong else "passed").inc()
        _LOG.info("version judged", version=judged.number, passed=not wrong, reasons=wrong or None)
        return judged


def code_of(codebook: Codebook, condition: str, width: int) -> torch.Tensor:
    """Return the code ``[P]`` of a condition; zeros, which are the base model, if it has none."""
    return codebook[condition].code if condition in codebook else torch.zeros(width)


def standing_of(condition: str, records: Sequence[VersionRecord], live: int) -> Standing:
    """Return what the records say of a condition.

    Args:
        condition: Name of the condition, and of its family.
        records: All records, oldest first.
        live: Number of the live version.
    """
    current = next((one for one in records if one.number == live), None)
    attempts = [one for one in records if one.changed == condition and one.events(condition)]
    passed = max(
        (one.number for one in attempts if one.state in {VersionState.LIVE, VersionState.RETIRED}),
        default=0,
    )
    failed = [one for one in attempts if one.number > passed]
    open_states = {VersionState.WITHDRAWN}
    tried = [one for one in attempts if one.state not in open_states]
    return Standing(
        known=tuple(current.lineage.get(condition, ())) if current else (),
        tried=tried[-1].events(condition) if tried else frozenset(),
        attempt=1 + len(failed),
    )
