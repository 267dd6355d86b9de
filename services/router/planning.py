"""Planning: chooses the plan of a request by the policy, the fixed plan or the client's wish."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from bem.adapters.loaded import LoadedAdapter
from bem.engine import GenerationRequest, OutputDelta, Sampling
from bem.engine.plan_run import DIRECT, PlanRun, StepOutput
from bem.policy.actions import CONTRACTS, FIXED_PLAN, Plan, check_plan
from bem.policy.features import Evidence
from bem.policy.hysteresis import PlanHysteresis
from bem.policy.planner import PlanChoice, Planner
from bem.policy.step_prompts import Message, PlanInput, split_input
from bem.prompt_encoding import PromptEncoder
from bem_fleet.services.router.plan_metrics import PLAN_SECONDS
from bem_fleet.services.router.policy_store import PolicyStore
from fleet.metrics import observe

PLANNER_NAME = "router"
"""Model name of requests that are planned."""
_FALLBACK_TASK = "general"
"""Task that the base model does when it has no adapter; others need theirs."""


class StepHost(Protocol):
    """The part of a model host that computes steps."""

    def adapters(self) -> list[LoadedAdapter]:
        """Return the loaded adapters."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[OutputDelta]:
        """Yield the output deltas of a request."""
        ...

    async def complete(self, request: GenerationRequest) -> OutputDelta:
        """Return one delta with the complete output."""
        ...


@dataclass(frozen=True)
class PlannedRequest:
    """A request with its plan.

    Attributes:
        plan: Steps of the plan.
        plan_input: Passages and question.
        source: ``policy``, ``fixed`` or ``client``.
        reason: Why this plan was chosen.
        policy_version: Hash of the policy that chose it; empty for the other sources.
        choice: Explanation of the policy; None for the other sources.
        features: Features that the policy read; empty for the other sources.
        cached_tokens: Prompt tokens that the prefix cache held at planning.
        missing: Tasks whose adapter is not loaded.
        session: Session of the request; may be empty.
    """

    plan: Plan
    plan_input: PlanInput
    source: str
    reason: str
    policy_version: str = ""
    choice: PlanChoice | None = None
    features: tuple[float, ...] = ()
    cached_tokens: int = 0
    missing: tuple[str, ...] = ()
    session: str = ""


class PlanDesk:
    """Plans requests of one loaded model and runs the plans.

    Args:
        host: Computes the steps.
        encoder: Prompt encoder of the model.
        store: Versions of the policy.
        hysteresis: Memory of the sessions' plans.
        prefix: Prefix of the names of the tasks' adapters.

    Attributes:
        store: Versions of the policy.
    """

    def __init__(
        self,
        host: StepHost,
        encoder: PromptEncoder,
        store: PolicyStore,
        hysteresis: PlanHysteresis,
        prefix: str = "",
    ) -> None:
        self.store = store
        self._host = host
        self._encoder = encoder
        self._hysteresis = hysteresis
        self._prefix = prefix

    async def plan(
        self,
        messages: Sequence[Message],
        request: GenerationRequest,
        *,
        wanted: Plan = (),
        session: str = "",
    ) -> PlannedRequest:
        """Return the plan of a request.

        Args:
            messages: Conversation; the last message is the user's.
            request: The request as it would run without a plan.
            wanted: Plan that the client gives; empty for none.
            session: Session for hysteresis; may be empty.

        Raises:
            InvalidRequestError: The conversation cannot be planned, or the client's plan does not
                fit.
        """
        plan_input = split_input(messages)
        missing = tuple(task for task in CONTRACTS if task not in self._adapters())
        if wanted:
            check_plan(wanted)
            used = {action.adapter for action in wanted}
            own = tuple(task for task in missing if task in used)
            return PlannedRequest(
                wanted, plan_input, "client", "the request gives the plan", missing=own
            )
        if self.store.current is None:
            return self._fixed(plan_input, self.store.problem, missing)
        return await self._by_policy(messages, plan_input, request, missing, session)

    def start(self, planned: PlannedRequest, request: GenerationRequest) -> PlanRun:
        """Return the run of a planned request.

        Args:
            planned: Plan and input.
            request: Settings of the client, for the last step.
        """
        return PlanRun(
            planned.plan, planned.plan_input, self._encoder, self._adapters(), last=request
        )

    async def run(self, run: PlanRun) -> AsyncGenerator[OutputDelta]:
        """Compute the steps and yield the deltas of the last one; closing it cancels the step.

        The last delta is yielded after its step is recorded, so that the costs are complete then.
        """
        while request := run.next_request():
            if not run.at_last_step:
                output = await self._host.complete(request)
                run.finish_step(_step_output(output, output.text))
                continue
            texts: list[str] = []
            async with aclosing(self._host.generate(request)) as deltas:
                async for delta in deltas:
                    texts.append(delta.text)
                    if delta.finish:
                        run.finish_step(_step_output(delta, "".join(texts)))
                    yield delta

    def forget_sessions(self) -> None:
        """Forget the sessions' plans, as another policy is served."""
        self._hysteresis.clear()

    def _adapters(self) -> dict[str, str]:
        """Return the loaded adapter of each task that has one."""
        loaded = {adapter.name for adapter in self._host.adapters()}
        names = {task: f"{self._prefix}{task}" for task in CONTRACTS}
        return {task: name for task, name in names.items() if name in loaded}

    def _fixed(
        self, plan_input: PlanInput, problem: str, missing: tuple[str, ...]
    ) -> PlannedRequest:
        """Return the fixed plan, or the direct answer if an adapter of it is not loaded."""
        absent = [action.adapter for action in FIXED_PLAN if action.adapter in missing]
        reason = f"fixed plan: {problem}"
        if absent:
            reason = f"{reason}; direct answer: no adapter for {', '.join(absent)}"
        plan = (DIRECT,) if absent else FIXED_PLAN
        return PlannedRequest(plan, plan_input, "fixed", reason, missing=missing)

    async def _by_policy(
        self,
        messages: Sequence[Message],
        plan_input: PlanInput,
        request: GenerationRequest,
        missing: tuple[str, ...],
        session: str,
    ) -> PlannedRequest:
        probe = _probe(request, self._encoder.encode_chat(messages))
        seen = await self._host.complete(probe)
        policy = self.store.current
        if policy is None or seen.prompt_state is None:  # removed in the meantime
            return self._fixed(plan_input, self.store.problem, missing)
        began = time.perf_counter()
        evidence = Evidence(
            tuple(plan_input.passages.splitlines()),
            plan_input.question,
            cached_share=seen.cached_tokens / len(probe.prompt_ids),
        )
        features = policy.projection.features(seen.prompt_state.cpu(), evidence)
        choice = Planner(policy, self._hysteresis).choose(
            features,
            session=f"{request.client}\n{session}" if session else "",
            missing=[task for task in missing if task != _FALLBACK_TASK],
        )
        observe(PLAN_SECONDS, time.perf_counter() - began)
        if choice is None or not bool(torch.isfinite(features).all()):
            return self._fixed(plan_input, "the policy has no plan that can run", missing)
        return PlannedRequest(
            plan=choice.plan,
            plan_input=plan_input,
            source="policy",
            reason=choice.reason,
            policy_version=policy.card.sha256,
            choice=choice,
            features=tuple(features.tolist()),
            cached_tokens=seen.cached_tokens,
            missing=missing,
            session=session,
        )


def _probe(request: GenerationRequest, prompt: Sequence[int]) -> GenerationRequest:
    """Return the pass over the prompt that the policy's features need.

    Its keys and values stay in the prefix cache, from where the steps take the passages.
    """
    return replace(
        request,
        prompt_ids=tuple(prompt),
        sampling=Sampling(temperature=0),
        max_tokens=1,
        min_tokens=0,
        stop=(),
        stop_token_ids=frozenset(),
        adapter=None,
        adapter_start=0,
        earlier_segments=(),
        pools_prompt=True,
    )


def _step_output(delta: OutputDelta, text: str) -> StepOutput:
    return StepOutput(text, delta.completion_tokens, delta.cached_tokens, delta.adapter_version)
