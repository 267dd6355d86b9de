"""Composition engine: runs the steps of a plan as requests to the engine, one after another.

A plan run computes no text itself. Its driver asks for the next request, gives it to the engine and
hands the output back, so that services (which stream) and recipes (which batch) run the same code.
A step with passages begins with the tokens that all such steps share; its adapter starts behind
them (activated LoRA, arXiv 2504.12397), so that the prefix cache serves their keys and values.

Example::

    run = PlanRun(plan, plan_input, encoder, adapters, last=request)
    while step := run.next_request():
        run.finish_step(StepOutput(complete(step)))
    reply = run.reply
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bem.engine.api import GenerationRequest, Sampling
from bem.policy.actions import MacroAction, Plan, check_plan
from bem.policy.step_prompts import PlanInput, TypedValue, parse_value, step_prompt
from bem.prompt_encoding import PromptEncoder

STEP_TOKENS = 64
"""Most tokens of an intermediate step."""
DIRECT = MacroAction("general", "passages", "suffix")
"""Step that answers without values; it replaces the rest of a plan whose step gave no value."""


@dataclass(frozen=True)
class StepOutput:
    """Output of the engine for one step.

    Attributes:
        text: Complete text.
        completion_tokens: Tokens generated.
        cached_tokens: Prompt tokens whose keys and values came from the prefix cache.
        adapter_version: Digest of the adapter version; empty for the base model.
    """

    text: str
    completion_tokens: int = 0
    cached_tokens: int = 0
    adapter_version: str = ""


@dataclass(frozen=True)
class StepResult:
    """A finished step.

    Attributes:
        action: Step of the plan.
        prompt_tokens: Tokens of its prompt.
        shared_tokens: Prompt tokens before the adapter's start.
        output: Output of the engine.
        value: Typed value that it passes on; None for the last step, or if it gave none.
    """

    action: MacroAction
    prompt_tokens: int
    shared_tokens: int
    output: StepOutput
    value: TypedValue | None


class PlanRun:
    """State of one plan that is being run.

    Args:
        plan: Steps; their contracts fit.
        plan_input: Passages and question.
        encoder: Prompt encoder of the model.
        adapters: Adapter of each task; a task without one runs on the base model.
        last: Request with the client's settings: the last step uses all of them, the others its
            deadline, client and safety strength. Its prompt is replaced.

    Attributes:
        plan: Steps; a step that gives no value shortens them.
        results: Finished steps.
        replanned: Whether a step gave no value, so that a direct answer replaced the rest.

    Raises:
        InvalidRequestError: The plan does not fit the contracts.
    """

    def __init__(
        self,
        plan: Plan,
        plan_input: PlanInput,
        encoder: PromptEncoder,
        adapters: Mapping[str, str],
        *,
        last: GenerationRequest,
    ) -> None:
        check_plan(plan)
        self.plan = plan
        self.results: list[StepResult] = []
        self.replanned = False
        self._input = plan_input
        self._encoder = encoder
        self._adapters = adapters
        self._last = last
        self._pending: GenerationRequest | None = None

    @property
    def at_last_step(self) -> bool:
        """Whether the next or the running step writes the reply."""
        return len(self.results) == len(self.plan) - 1

    @property
    def reply(self) -> str:
        """Text of the last finished step."""
        return self.results[-1].output.text

    @property
    def pending_tokens(self) -> int:
        """Prompt tokens of the running step; 0 between steps."""
        return len(self._pending.prompt_ids) if self._pending else 0

    @property
    def cached_share(self) -> float:
        """Share of all prompt tokens whose keys and values came from the prefix cache."""
        prompt = sum(one.prompt_tokens for one in self.results)
        return sum(one.output.cached_tokens for one in self.results) / max(1, prompt)

    def next_request(self) -> GenerationRequest | None:
        """Return the request of the next step; None when the plan is finished."""
        if len(self.results) == len(self.plan):
            return None
        action = self.plan[len(self.results)]
        value = self.results[-1].value if self.results and not self.replanned else None
        prompt = step_prompt(action, self._input, value)
        ids = self._encoder.encode_chat(prompt.messages)
        start = self._shared_tokens(ids, prompt.shared) if action.span == "suffix" else 0
        adapter = self._adapters.get(action.adapter)
        common = replace(
            self._last,
            prompt_ids=tuple(ids),
            adapter=adapter,
            adapter_start=start if adapter else 0,
            adapter_rank=action.rank_budget,
            earlier_segments=(),
        )
        if not self.at_last_step:
            common = replace(
                common,
                sampling=Sampling(temperature=0),
                max_tokens=STEP_TOKENS,
                min_tokens=0,
                stop=(),
                stop_token_ids=frozenset(),
                ignore_eos=False,
                form=None,
                adapter_scale=1.0,
            )
        self._pending = common
        return common

    def finish_step(self, output: StepOutput) -> StepResult:
        """Record the output of the request that ``next_request`` returned.

        Raises:
            ValueError: No request is running.
        """
        if self._pending is None:
            raise ValueError("no step is running; call next_request first")
        action = self.plan[len(self.results)]
        is_last = self.at_last_step
        value = None if is_last else parse_value(action.adapter, output.text)
        result = StepResult(
            action, len(self._pending.prompt_ids), self._pending.adapter_start, output, value
        )
        self.results.append(result)
        self._pending = None
        if value is None and not is_last:
            self.replanned = True
            self.plan = (*self.plan[: len(self.results)], DIRECT)
        return result

    def _shared_tokens(self, ids: list[int], shared: tuple[Mapping[str, str], ...]) -> int:
        """Return how many tokens the prompt has in common with the shared messages alone."""
        if not shared:
            return 0
        prefix = self._encoder.encode_chat(shared, add_generation_prompt=False)
        pairs = enumerate(zip(ids, prefix, strict=False))
        return next((place for place, (one, other) in pairs if one != other), len(prefix))
