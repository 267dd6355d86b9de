"""Outcomes of all plans on record questions: every distinct step is generated once.

Plans that begin with the same steps share their outputs, so that a tree of plans costs one
generation a node. The file holds states, scores and cache misses; policies, baselines and ablations
read it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from bem.engine import GenerationRequest, LLMEngine, Sampling
from bem.engine.offline import stream
from bem.engine.plan_run import PlanRun, StepOutput
from bem.engine.prefix_cache import BLOCK_TOKENS
from bem.errors import DataFormatError
from bem.policy.actions import MacroAction, parse_action
from bem.policy.features import Evidence, FeatureProjection
from bem.policy.outcomes import OutcomeTable, plan_rewards
from bem.policy.plan_tree import PlanTree
from bem.prompt_encoding import PromptEncoder
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from bem_fleet.data.records import Record
from bem_fleet.recipes.router.step_examples import plan_input
from bem_fleet.scores.answer_match import f1

REPLY_TOKENS = 64
_GREEDY = Sampling(temperature=0)
UNSCOPED_ACTIONS = (
    MacroAction("formalize", "both", "suffix"),
    MacroAction("general", "both", "suffix"),
)
"""Last steps that see the passages beside the values; the ablation of scopes needs them."""


@dataclass(frozen=True, eq=False)
class PlanOutcomes:
    """Outcomes of P plans on N items.

    Attributes:
        actions: Actions of the tree, as text.
        horizon: Most steps of a plan.
        items: Key of each item.
        clusters: Unit of resampling of each item.
        parts: Part of each item: ``seen``, ``facts``, ``compositions`` or ``both``.
        states: ``[N, D]`` mean state of each prompt.
        evidence: ``[N, 8]`` evidence features.
        exact: ``[N, P]`` 1 where the reply is exactly the wanted one.
        overlap: ``[N, P]`` F1 of the reply's words.
        misses: ``[N, P]`` share of the prompt tokens that no step shares.
    """

    actions: tuple[str, ...]
    horizon: int
    items: tuple[str, ...]
    clusters: tuple[str, ...]
    parts: tuple[str, ...]
    states: Tensor
    evidence: Tensor
    exact: Tensor
    overlap: Tensor
    misses: Tensor

    def tree(self) -> PlanTree:
        """Return the tree of plans."""
        return PlanTree([parse_action(one) for one in self.actions], self.horizon)

    def table(
        self, projection: FeatureProjection, *, step_cost: float = 0.02, miss_cost: float = 0.02
    ) -> OutcomeTable:
        """Return the outcome table with exact match as the score.

        Args:
            projection: Projection of the states, fitted to training items.
            step_cost: Cost of one step.
            miss_cost: Cost of a plan that reuses no key or value.
        """
        tree = self.tree()
        projected = ((self.states - projection.mean) @ projection.axes).clamp(-4, 4)
        steps = [len(plan) for plan in tree.plans]
        rewards = plan_rewards(
            self.exact, self.misses, steps, step_cost=step_cost, miss_cost=miss_cost
        )
        return OutcomeTable(tree, torch.cat([projected, self.evidence], dim=1), rewards)

    def restricted(self, actions: Sequence[MacroAction], horizon: int) -> "PlanOutcomes":
        """Return the outcomes of the plans of some actions, of at most ``horizon`` steps.

        Args:
            actions: Actions that these outcomes have.
            horizon: Most steps of a plan, at most that of these outcomes.

        Raises:
            InvalidSettingError: The actions make no plan.
        """
        plans = self.tree().plans
        columns = [plans.index(plan) for plan in PlanTree(actions, horizon).plans]
        return replace(
            self,
            actions=tuple(str(action) for action in actions),
            horizon=horizon,
            exact=self.exact[:, columns],
            overlap=self.overlap[:, columns],
            misses=self.misses[:, columns],
        )

    @property
    def digest(self) -> str:
        """SHA-256 of items and scores, hexadecimal."""
        digest = hashlib.sha256(json.dumps([self.actions, self.items]).encode())
        digest.update(self.exact.numpy().tobytes())
        return digest.hexdigest()


def compute_outcomes(
    engine: LLMEngine, records: Sequence[Record], tree: PlanTree, adapters: Mapping[str, str]
) -> PlanOutcomes:
    """Run every plan on every item, greedily.

    Args:
        engine: Started engine with the adapters.
        records: Questions about record facts.
        tree: Plans that are run.
        adapters: Adapter of each task; a task without one runs on the base model.
    """
    runs = _run_all(engine, records, tree, adapters)
    exact, overlap, misses = (torch.zeros(len(records), len(tree.plans)) for _ in range(3))
    for (item, plan), run in runs.items():
        gold = records[item].answers[0]
        exact[item, plan] = float(run.reply.strip() == gold)
        overlap[item, plan] = f1(run.reply.strip(), gold)
        misses[item, plan] = _missed_share(run)
    return PlanOutcomes(
        actions=tuple(str(action) for action in tree.actions),
        horizon=tree.horizon,
        items=tuple(record.key for record in records),
        clusters=tuple(str(record.labels["cluster"]) for record in records),
        parts=tuple(str(record.labels["part"]) for record in records),
        states=prompt_states(engine, [_prompt_text(record) for record in records]),
        evidence=torch.stack([_evidence(record).features() for record in records]),
        exact=exact,
        overlap=overlap,
        misses=misses,
    )


def prompt_states(engine: LLMEngine, prompts: Sequence[str]) -> Tensor:
    """Return the mean state of each user message, ``[N, D]``, as the planner sees it."""
    encoder = PromptEncoder(engine.backbone.tokenizer)
    requests = [
        GenerationRequest(
            tuple(encoder.encode_chat([{"role": "user", "content": prompt}])),
            _GREEDY,
            max_tokens=1,
            pools_prompt=True,
        )
        for prompt in prompts
    ]
    found = {index: done.prompt_state for index, done in stream(engine, requests)}
    return torch.stack([state for _, state in sorted(found.items()) if state is not None])


def save_outcomes(path: Path, outcomes: PlanOutcomes) -> None:
    """Write outcomes as ``<path>.safetensors`` and ``<path>.json``."""
    values = asdict(outcomes)
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    texts = {name: value for name, value in values.items() if name not in tensors}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: one.contiguous() for name, one in tensors.items()}, _tensors(path))
    _texts(path).write_text(json.dumps(texts) + "\n", encoding="utf-8")


def read_outcomes(path: Path) -> PlanOutcomes:
    """Read outcomes that ``save_outcomes`` wrote.

    Raises:
        DataFormatError: A file is missing or malformed.
    """
    try:
        texts: dict[str, Any] = json.loads(_texts(path).read_text(encoding="utf-8"))
        values: dict[str, Any] = {
            name: tuple(one) if isinstance(one, list) else one for name, one in texts.items()
        }
        return PlanOutcomes(**(values | load_file(_tensors(path))))
    except (OSError, ValueError, TypeError) as err:
        raise DataFormatError(f"{path.name}: no outcomes: {err}; compute them again") from err


def join_outcomes(parts: Sequence[PlanOutcomes]) -> PlanOutcomes:
    """Return the outcomes of all items of some parts, in their order.

    Args:
        parts: At least one, of the same plans and of different items.

    Raises:
        DataFormatError: The parts have other plans, or an item twice.
    """
    first = parts[0]
    if any((one.actions, one.horizon) != (first.actions, first.horizon) for one in parts):
        raise DataFormatError("outcomes: the parts have other plans; compute them again")
    items = [item for one in parts for item in one.items]
    if len(set(items)) < len(items):
        raise DataFormatError("outcomes: an item is in two parts; give each shard once")
    joined: dict[str, Any] = {}
    for name in [field.name for field in fields(first) if field.name not in {"actions", "horizon"}]:
        found = [getattr(one, name) for one in parts]
        joined[name] = torch.cat(found) if isinstance(found[0], Tensor) else tuple(chain(*found))
    return replace(first, **joined)


def _run_all(
    engine: LLMEngine, records: Sequence[Record], tree: PlanTree, adapters: Mapping[str, str]
) -> dict[tuple[int, int], PlanRun]:
    encoder = PromptEncoder(engine.backbone.tokenizer)
    last = GenerationRequest((0,), _GREEDY, max_tokens=REPLY_TOKENS)
    runs = {
        (item, place): PlanRun(plan, plan_input(record), encoder, adapters, last=last)
        for item, record in enumerate(records)
        for place, plan in enumerate(tree.plans)
    }
    run_steps(engine, runs, tree.horizon)
    return runs


def run_steps(
    engine: LLMEngine,
    runs: Mapping[tuple[int, int], PlanRun],
    horizon: int,
    *,
    progress: bool = True,
) -> None:
    """Run plans to their ends, depth by depth; equal beginnings of one item run once.

    Args:
        engine: Started engine with the adapters.
        runs: Runs by item and plan.
        horizon: Most steps of a plan.
        progress: Whether to show a progress bar for each depth.
    """
    for depth in range(horizon):
        wanted: dict[tuple[int, tuple[MacroAction, ...]], GenerationRequest] = {}
        waiting: dict[tuple[int, int], tuple[int, tuple[MacroAction, ...]]] = {}
        for (item, place), run in runs.items():
            if request := run.next_request():
                # A step that gave no value has changed the plan, and so the key.
                key = item, run.plan[: depth + 1]
                wanted.setdefault(key, request)
                waiting[item, place] = key
        keys = list(wanted)
        outputs = {}
        title = f"step {depth + 1}"
        with tqdm(total=len(keys), desc=title, unit="request", disable=not progress) as bar:
            for index, done in stream(engine, [wanted[key] for key in keys]):
                outputs[keys[index]] = StepOutput(
                    done.text, done.completion_tokens, done.cached_tokens
                )
                bar.update()
        for at, key in waiting.items():
            runs[at].finish_step(outputs[key])


def _missed_share(run: PlanRun) -> float:
    """Return the share of prompt tokens that the pass over the prompt does not leave in the cache.

    It follows from the plan alone, so that the table does not depend on the order of the requests.
    """
    shared = sum(one.shared_tokens // BLOCK_TOKENS * BLOCK_TOKENS for one in run.results)
    return 1 - shared / sum(one.prompt_tokens for one in run.results)


def _evidence(record: Record) -> Evidence:
    # When a plan is chosen, the pass over the prompt is the first to compute the passages.
    return Evidence(tuple(record.passage.splitlines()), record.question)


def _prompt_text(record: Record) -> str:
    return f"{record.passage}\n\n{record.question}"


def _tensors(path: Path) -> Path:
    return path.with_name(f"{path.name}.safetensors")


def _texts(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
