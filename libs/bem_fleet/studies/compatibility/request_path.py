"""Path of a request through the missions that are active, in the order in which a fleet has them.

1. The sidecar (safety) judges the request; a withheld one has an empty reply.
2. Memory reads the passage into a session of its own and puts the sentences that it cites for the
   question in the passage's place. A passage whose question it refuses as too long stays.
3. An adapter that the client names answers. Without one, the code of the condition that the prompt
   meets answers (online), or the plan that the policy chooses (router), or memory's reader, or the
   base model, the first of these that is active and applies.
4. Every pass has the surface front in its weights (sep) and the safety basis at the fleet's default
   strength (safety).
5. The sidecar judges the reply.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bem.engine import GenerationRequest, Sampling
from bem.engine.offline import stream
from bem.engine.plan_run import PlanRun
from bem.errors import InvalidRequestError
from bem.memory import SessionConfig, SessionMemory
from bem.memory.encoder import read_document
from bem.policy.actions import HORIZON
from bem.policy.step_prompts import PlanInput
from bem.prompt_encoding import PromptEncoder

from bem_fleet.recipes.router.plan_outcomes import REPLY_TOKENS, prompt_states, run_steps
from bem_fleet.services.memory.reader import CitedSpan, best_spans, cite, reader_prompt
from bem_fleet.services.memory.settings import MemorySettings
from bem_fleet.services.router.settings import RouterSettings
from bem_fleet.studies.compatibility.mission_items import MissionItem
from bem_fleet.studies.compatibility.shared_engine import SharedEngine

_HOPS = 2
_SESSIONS = 4
_GREEDY = Sampling(temperature=0)


class Filtered(Protocol):
    """Result of a filter; ``text`` is empty if it was withheld."""

    @property
    def text(self) -> str:
        """Text as it passes."""


class ExchangeGuard(Protocol):
    """Filters of the sidecar, as ``bem_fleet.guard.offline.OfflineGuard`` has them."""

    def filter_requests(self, prompts: Sequence[str]) -> Sequence[Filtered]:
        """Return each prompt as it reaches the mission."""

    def filter_response(self, response: str, prompt: str = "") -> Filtered:
        """Return a response as it reaches the client."""


@dataclass(frozen=True)
class Reply:
    """What a client gets.

    Attributes:
        text: Reply; empty if it was withheld.
        source: Who answered: ``adapter``, ``code``, ``plan``, ``reader``, ``base`` or ``withheld``.
    """

    text: str
    source: str


@dataclass
class _Call:
    """An item on its way.

    Attributes:
        item: The item.
        spans: What memory cites; None where memory does not act.
        source: Who answers.
        adapter: Adapter that answers; None for the base model.
        reply: Text so far.
    """

    item: MissionItem
    spans: list[CitedSpan] | None = None
    source: str = "base"
    adapter: str | None = None
    reply: str = field(default="")

    @property
    def prompt(self) -> str:
        """Message that the model reads where no plan runs."""
        if self.source == "reader" and self.spans is not None:
            limit = len(self.spans) or 1
            return reader_prompt(self.spans, self.item.question, limit=limit)
        return self.item.prompt


class RequestPath:
    """Answers items with some missions active.

    Args:
        shared: Engine with the parts of these missions.
        missions: Active missions.
        guard: The sidecar's filters; needed where safety is active.
    """

    def __init__(
        self, shared: SharedEngine, missions: frozenset[str], guard: ExchangeGuard | None = None
    ) -> None:
        if "safety" in missions and guard is None:
            raise ValueError("guard: safety is active; give the sidecar's filters")
        self._shared, self._missions = shared, missions
        self._guard = guard if "safety" in missions else None
        self._strength = RouterSettings().safety_strength if "safety" in missions else 0.0
        self._encoder = PromptEncoder(shared.backbone.tokenizer)
        self._memory = MemorySettings()
        self._sessions: OrderedDict[str, SessionMemory] = OrderedDict()

    def replies(self, items: Sequence[MissionItem]) -> list[Reply]:
        """Return the replies that clients get, in the order of the items."""
        calls = [_Call(item) for item in items]
        open_calls = self._judge_requests(calls)
        if "memory" in self._missions:
            self._cite(open_calls)
        self._choose_sources(open_calls)
        self._generate([one for one in open_calls if one.source != "plan"])
        self._run_plans([one for one in open_calls if one.source == "plan"])
        if self._guard:
            for call in open_calls:
                call.reply = self._guard.filter_response(call.reply, call.item.prompt).text
        return [Reply(call.reply, call.source) for call in calls]

    def _judge_requests(self, calls: Sequence[_Call]) -> list[_Call]:
        """Return the calls that the sidecar lets through."""
        if self._guard is None:
            return list(calls)
        outcomes = self._guard.filter_requests([one.item.prompt for one in calls])
        passed = []
        for call, outcome in zip(calls, outcomes, strict=True):
            if outcome.text:
                passed.append(call)
            else:
                call.source = "withheld"
        return passed

    def _cite(self, calls: Sequence[_Call]) -> None:
        for call in calls:
            if not call.item.passage:
                continue
            encoder = self._shared.encoder
            try:
                question = encoder.question(call.item.question)
            except InvalidRequestError:  # memory refuses it: the passage stays as it is
                continue
            session = self._session(call.item.passage)
            found = session.retrieve(question, hops=_HOPS)
            cited = cite(session, encoder.tokenizer, found, tokens=self._memory.evidence_tokens)
            call.spans = best_spans(cited, self._memory.reader_spans)
            text = "\n".join(" ".join(one.text.split()) for one in call.spans)
            call.item = call.item.with_passage(text)

    def _session(self, passage: str) -> SessionMemory:
        """Return a session that has read a passage; the last few are kept."""
        if passage not in self._sessions:
            config = SessionConfig(budget_bytes=self._memory.budget_bytes)
            session = SessionMemory(config, self._shared.encoder.modules)
            read_document(session, self._shared.encoder, passage)
            self._sessions[passage] = session
            if len(self._sessions) > _SESSIONS:
                self._sessions.popitem(last=False)
        return self._sessions[passage]

    def _choose_sources(self, calls: Sequence[_Call]) -> None:
        loaded = {one.name for one in self._shared.engine.adapters()}
        codes = self._shared.codes if "online" in self._missions else None
        free = []
        for call in calls:
            if call.item.adapter in loaded:
                call.source, call.adapter = "adapter", call.item.adapter
            else:
                free.append(call)
        if codes is not None and free:
            states = prompt_states(self._shared.engine, [one.item.prompt for one in free])
            for call, state in zip(free, states, strict=True):
                if adapter := codes.adapter_for(state.float().cpu()):
                    call.source, call.adapter = "code", adapter
        for call in free:
            if call.source != "base":
                continue
            if "router" in self._missions:
                call.source = "plan"
            elif call.spans is not None:
                call.source, call.adapter = "reader", self._shared.reader

    def _generate(self, calls: Sequence[_Call]) -> None:
        requests = [
            GenerationRequest(
                tuple(self._encoder.encode_chat([{"role": "user", "content": call.prompt}])),
                _GREEDY,
                REPLY_TOKENS,
                adapter=call.adapter,
                safety_strength=self._strength,
            )
            for call in calls
        ]
        for index, done in stream(self._shared.engine, requests):
            calls[index].reply = done.text.strip()

    def _run_plans(self, calls: Sequence[_Call]) -> None:
        if not calls:
            return
        shared = self._shared
        inputs = [PlanInput(one.item.passage, one.item.question) for one in calls]
        last = GenerationRequest((0,), _GREEDY, REPLY_TOKENS, safety_strength=self._strength)
        runs = {
            (index, 0): PlanRun(plan, one, self._encoder, shared.tasks, last=last)
            for index, (plan, one) in enumerate(
                zip(shared.choose(shared.engine, inputs), inputs, strict=True)
            )
        }
        run_steps(shared.engine, runs, HORIZON, progress=False)
        for (index, _), run in runs.items():
            calls[index].reply = run.reply.strip()
