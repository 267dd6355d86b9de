"""Planned calls: the router's RPCs for the model ``router``, and those of its policy."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from bem.engine import GenerationRequest
from bem.engine.plan_run import PlanRun
from bem.errors import InvalidRequestError
from bem.policy.hysteresis import PlanHysteresis
from bem.prompt_encoding import PromptEncoder
from bem_fleet.services.router import plan_messages
from bem_fleet.services.router.decision_log import DecisionLog, decision_of
from bem_fleet.services.router.generation_messages import complete_message, delta_message
from bem_fleet.services.router.model_host import ModelHost
from bem_fleet.services.router.plan_metrics import (
    PLAN_CACHED_TOKENS,
    PLAN_PROMPT_TOKENS,
    PLAN_STEPS,
    PLANS,
    POLICY_DISTANCE,
    POLICY_UPDATES,
    POLICY_VERSION,
    REPLANNED,
)
from bem_fleet.services.router.planning import PLANNER_NAME, PlanDesk, PlannedRequest
from bem_fleet.services.router.policy_store import PolicyStore
from bem_fleet.services.router.request_parsing import RequestedStrength
from bem_fleet.services.router.settings import RouterSettings
from bemfleet.router.v1 import router_pb2 as pb
from fleet.mission import AdapterInfo
from fleet.tracing import span


class PlannedCalls:
    """Answers the calls that need plans, for one loaded model.

    Args:
        host: The loaded model.
        desk: Plans requests and runs plans.
        log: Takes the decisions; None records none.

    Attributes:
        desk: Plans requests and runs plans.
    """

    def __init__(self, host: ModelHost, desk: PlanDesk, log: DecisionLog | None = None) -> None:
        self.desk = desk
        self._host = host
        self._log = log
        self._updating = asyncio.Lock()
        self._export_version()

    @property
    def planner(self) -> AdapterInfo:
        """The planner as a model that requests can name."""
        policy = self.desk.store.current
        version = policy.card.sha256 if policy else "fixed"
        return AdapterInfo(PLANNER_NAME, version, loaded_unix_s=self._host.started_unix_s)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the planner serves without, with the reason."""
        found = []
        if problem := self.desk.store.problem:
            found.append(f"policy: the fixed plan runs; {problem}")
        if self._log and not self._log.available:
            found.append("decisions: Redis does not take them; they are not recorded")
        return tuple(found)

    async def generate(
        self, request: pb.GenerateRequest, deadline: float | None, strength: RequestedStrength
    ) -> AsyncGenerator[pb.GenerateResponse]:
        """Yield the responses of a planned request; the last step's text is streamed.

        The first response has the plan, the last one what its steps cost.

        Raises:
            InvalidRequestError: A field is out of its limit.
        """
        began = time.perf_counter()
        planned, run = await self._start(request, deadline, strength)
        first = True
        async with aclosing(self.desk.run(run)) as deltas:
            async for delta in deltas:
                response = delta_message(delta)
                response.usage.CopyFrom(
                    _usage(run, delta.completion_tokens, finished=bool(delta.finish))
                )
                if first:
                    response.model_version = self._host.model_version(delta.adapter_version)
                    response.plan.CopyFrom(plan_messages.report_message(planned))
                    first = False
                if delta.finish:
                    response.plan_usage.CopyFrom(plan_messages.usage_message(run))
                    self._finish(planned, run, began)
                yield response

    async def complete(
        self, request: pb.GenerateRequest, deadline: float | None, strength: RequestedStrength
    ) -> pb.CompleteResponse:
        """Return the reply of a planned request; errors as in ``generate``."""
        began = time.perf_counter()
        planned, run = await self._start(request, deadline, strength)
        async with aclosing(self.desk.run(run)) as deltas:
            found = [delta async for delta in deltas]
        whole = replace(
            found[-1],
            text="".join(one.text for one in found),
            logprobs=tuple(token for one in found for token in one.logprobs),
        )
        response = complete_message(whole)
        response.usage.CopyFrom(_usage(run, whole.completion_tokens, finished=True))
        response.model_version = self._host.model_version(whole.adapter_version)
        response.plan.CopyFrom(plan_messages.report_message(planned))
        response.plan_usage.CopyFrom(plan_messages.usage_message(run))
        self._finish(planned, run, began)
        return response

    async def explain(
        self, request: pb.GenerateRequest, deadline: float | None, strength: RequestedStrength
    ) -> pb.PlanReport:
        """Return the plan of a request with the other plans; errors as in ``generate``.

        The session's plan is looked at and kept as it is: asking changes nothing.
        """
        if request.model not in ("", PLANNER_NAME):
            raise InvalidRequestError(
                "request.model", f"{request.model[:40]!r} is not planned; name {PLANNER_NAME!r}"
            )
        planned, _ = await self._plan(request, deadline, strength, asking=True)
        return plan_messages.report_message(planned, alternatives=True)

    async def apply_update(
        self, request: pb.ApplyPolicyUpdateRequest
    ) -> pb.ApplyPolicyUpdateResponse:
        """Decide about a policy update and serve it if it is accepted.

        Raises:
            BemError: The files are no policy of this base model.
            UnavailableError: The policy folder cannot be written.
        """
        store = self.desk.store
        async with self._updating:
            decision = await asyncio.to_thread(store.apply, request.card, request.tensors)
            if decision.accepted:
                self._changed()
        POLICY_DISTANCE.set(decision.distance)
        POLICY_UPDATES.labels("accepted" if decision.accepted else "refused").inc()
        return pb.ApplyPolicyUpdateResponse(
            accepted=decision.accepted,
            reason=decision.reason,
            distance=decision.distance,
            largest_distance=decision.largest,
            trust_region=store.trust_region,
            current=self._current_version(),
        )

    async def list_versions(self) -> pb.ListPolicyVersionsResponse:
        """Return the stored versions of the policy."""
        store = self.desk.store
        cards = await asyncio.to_thread(store.versions)
        now = store.current.card.sha256 if store.current else ""
        return pb.ListPolicyVersionsResponse(
            versions=[
                plan_messages.version_message(card, current=card.sha256 == now) for card in cards
            ]
        )

    async def restore(self, version: int) -> pb.RestoreResponse:
        """Serve a stored version of the policy, or none for 0.

        Raises:
            InvalidRequestError: The number is negative.
            NotFoundError: There is no such version.
        """
        if version < 0:
            raise InvalidRequestError("version", f"{version} is below 0; name a stored version")
        async with self._updating:
            await asyncio.to_thread(self.desk.store.restore, version)
            self._changed()
        return pb.RestoreResponse(current=self._current_version())

    async def _start(
        self, request: pb.GenerateRequest, deadline: float | None, strength: RequestedStrength
    ) -> tuple[PlannedRequest, PlanRun]:
        planned, parsed = await self._plan(request, deadline, strength, asking=False)
        return planned, self.desk.start(planned, parsed)

    async def _plan(
        self,
        request: pb.GenerateRequest,
        deadline: float | None,
        strength: RequestedStrength,
        *,
        asking: bool,
    ) -> tuple[PlannedRequest, GenerationRequest]:
        parsed = self._host.parse(unplanned(request), deadline, strength)
        session = plan_messages.wanted_session(request)
        with span("router.plan") as one:
            planned = await self.desk.plan(
                plan_messages.conversation(request),
                parsed,
                wanted=plan_messages.wanted_plan(request),
                session="" if asking else session,
            )
            one.set("bem.plan.source", planned.source)
            one.set("bem.plan.steps", [action.adapter for action in planned.plan])
        return planned, parsed

    def _finish(self, planned: PlannedRequest, run: PlanRun, began: float) -> None:
        PLANS.labels(planned.source).inc()
        for one in run.results:
            PLAN_STEPS.labels(one.action.adapter).inc()
            PLAN_PROMPT_TOKENS.inc(one.prompt_tokens)
            PLAN_CACHED_TOKENS.inc(one.output.cached_tokens)
        REPLANNED.inc(run.replanned)
        if self._log:
            self._log.record(decision_of(planned, run, seconds=time.perf_counter() - began))

    def _changed(self) -> None:
        self.desk.forget_sessions()
        self._export_version()

    def _export_version(self) -> None:
        policy = self.desk.store.current
        POLICY_VERSION.set(policy.card.version if policy else 0)

    def _current_version(self) -> pb.PolicyVersion:
        policy = self.desk.store.current
        return plan_messages.version_message(policy.card if policy else None, current=True)


def open_planned_calls(
    host: ModelHost, settings: RouterSettings, log: DecisionLog | None = None
) -> PlannedCalls:
    """Return the planned calls of a loaded model; a policy that cannot be read is left out."""
    backbone = host.backbone
    store = PolicyStore(
        settings.policy_folder,
        initial=settings.policy,
        base_digest=backbone.digest,
        state_width=backbone.model.config.hidden_size,
        trust_region=settings.policy_trust_region,
    )
    hysteresis = PlanHysteresis(settings.plan_gain, settings.plan_agreeing)
    desk = PlanDesk(
        host, PromptEncoder(backbone.tokenizer), store, hysteresis, settings.plan_adapters
    )
    return PlannedCalls(host, desk, log)


def unplanned(request: pb.GenerateRequest) -> pb.GenerateRequest:
    """Return a planned request as one of the base model.

    Raises:
        InvalidRequestError: The request names adapters, which its plan chooses.
    """
    if request.adapters:
        raise InvalidRequestError(
            "adapters",
            f"{len(request.adapters)} adapters with the model {PLANNER_NAME!r}; 0 are allowed, "
            "because the plan chooses them; name another model",
        )
    plain = pb.GenerateRequest()
    plain.CopyFrom(request)
    plain.model = ""
    plain.ClearField("plan")
    return plain


def _usage(run: PlanRun, completion_tokens: int, *, finished: bool) -> pb.Usage:
    """Return the tokens of all steps so far; the running step's are added while it runs."""
    prompt = sum(one.prompt_tokens for one in run.results)
    completion = sum(one.output.completion_tokens for one in run.results)
    if not finished:
        prompt += run.pending_tokens
        completion += completion_tokens
    return pb.Usage(prompt_tokens=prompt, completion_tokens=completion)
