"""Evaluation systems of the router: plans by a policy or by rule, and monoliths with a chain."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from bem.engine import GenerationRequest, LLMEngine, Sampling
from bem.engine.plan_run import PlanRun
from bem.errors import BemError, EvaluationError
from bem.policy.actions import HORIZON, Plan, plan_text
from bem.policy.artifact import PolicyArtifact
from bem.policy.features import Evidence
from bem.policy.planner import Planner
from bem.policy.step_prompts import PlanInput, split_input
from bem.prompt_encoding import PromptEncoder

from bem_fleet.evaluation.systems import Chat, Decoding, Response
from bem_fleet.evaluation.worker_system import WorkerSystem
from bem_fleet.recipes.router.plan_outcomes import prompt_states, run_steps
from bem_fleet.recipes.router.step_examples import reply_of

PlanChooser = Callable[[LLMEngine, Sequence[PlanInput]], list[Plan]]


class PlanSystem:
    """System that answers by plans over adapters.

    Args:
        engine: Started engine with the adapters.
        name: Name in reports.
        choose: Chooses the plan of each input.
        identity: Text that determines the choice, such as a policy's hash or a plan.
        adapters: Adapter of each task; all may be one monolith.

    Raises:
        EvaluationError: An adapter is not loaded.
    """

    def __init__(
        self,
        engine: LLMEngine,
        name: str,
        choose: PlanChooser,
        *,
        identity: str,
        adapters: Mapping[str, str],
    ) -> None:
        versions = {loaded.name: loaded.version for loaded in engine.adapters()}
        if missing := sorted(set(adapters.values()) - set(versions)):
            raise EvaluationError(f"adapters: {', '.join(missing)} are not loaded; load them")
        self.name = name
        used = sorted((task, versions[adapter]) for task, adapter in adapters.items())
        text = f"{engine.backbone.digest}|{identity}|{used}"
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        self._engine = engine
        self._choose = choose
        self._adapters = adapters

    def respond(
        self, chats: Sequence[Chat], decoding: Decoding, seed: int
    ) -> Iterator[tuple[int, Response]]:
        """Run the plans of all conversations and yield (index, response).

        Raises:
            EvaluationError: The engine rejects or drops a step.
        """
        inputs = [
            split_input([{"role": turn.role, "content": turn.content} for turn in chat])
            for chat in chats
        ]
        last = GenerationRequest(
            (0,),
            Sampling(temperature=decoding.temperature, seed=seed),
            max_tokens=decoding.max_tokens,
        )
        encoder = PromptEncoder(self._engine.backbone.tokenizer)
        try:
            plans = self._choose(self._engine, inputs)
            runs = {
                (index, 0): PlanRun(plan, one, encoder, self._adapters, last=last)
                for index, (plan, one) in enumerate(zip(plans, inputs, strict=True))
            }
            run_steps(self._engine, runs, HORIZON)
        except BemError as err:
            raise EvaluationError(f"{self.name}: no response: {err}") from err
        for (index, _), run in runs.items():
            prompt = sum(one.prompt_tokens for one in run.results)
            completion = sum(one.output.completion_tokens for one in run.results)
            yield index, Response(run.reply.strip(), prompt, completion)


class ChainSystem:
    """Monolith that writes all steps in one reply, of which the last line is read.

    Args:
        engine: Started engine with the adapter.
        adapter: Name of the loaded adapter.
        task: ``monolith-direct`` or ``monolith-chain``.
    """

    def __init__(self, engine: LLMEngine, adapter: str, task: str) -> None:
        self._inner = WorkerSystem(engine, adapter)
        self._task = task
        self.name, self.digest = adapter, f"{self._inner.digest}|{task}"

    def respond(
        self, chats: Sequence[Chat], decoding: Decoding, seed: int
    ) -> Iterator[tuple[int, Response]]:
        """Answer all conversations and yield (index, response); errors as in ``WorkerSystem``."""
        # A chain writes two steps before the reply, and each may be as long.
        tokens = decoding.max_tokens * (HORIZON if self._task == "monolith-chain" else 1)
        longer = Decoding(decoding.temperature, tokens)
        for index, one in self._inner.respond(chats, longer, seed):
            text = reply_of(self._task, one.text)
            yield index, Response(text, one.prompt_tokens, one.completion_tokens)


def always(plan: Plan) -> tuple[PlanChooser, str]:
    """Return a chooser of one plan, and its identity."""
    return (lambda _, inputs: [plan] * len(inputs)), plan_text(plan)


def by_policy(artifact: PolicyArtifact) -> tuple[PlanChooser, str]:
    """Return the greedy chooser of a policy, as the router serves it, and its identity."""
    planner = Planner(artifact)

    def choose(engine: LLMEngine, inputs: Sequence[PlanInput]) -> list[Plan]:
        states = prompt_states(engine, [f"{one.passages}\n\n{one.question}" for one in inputs])
        plans: list[Plan] = []
        for one, state in zip(inputs, states, strict=True):
            evidence = Evidence(tuple(one.passages.splitlines()), one.question)
            choice = planner.choose(artifact.projection.features(state, evidence))
            if choice is None:
                raise EvaluationError("policy: it has no plan; train it again")
            plans.append(choice.plan)
        return plans

    return choose, artifact.card.sha256
