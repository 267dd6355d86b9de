"""Cost of plans: choosing one, the first token of a step behind shared passages, and throughput.

A plan's steps share 512 tokens of passages. The adapters are random and every step writes a fixed
number of tokens, so that the figures depend on no training. The planner reads states of the base
model's width with networks of the size that the recipe trains.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
from bem.policy.actions import DEFAULT_ACTIONS
from bem.policy.artifact import PolicyArtifact, PolicyCard
from bem.policy.features import EVIDENCE_WIDTH, Evidence, FeatureProjection
from bem.policy.hysteresis import PlanHysteresis
from bem.policy.network import ActionValueNetwork, PolicyNetwork
from bem.policy.plan_tree import PlanTree
from bem.policy.planner import Planner

from benchmarks.engine.measurement import (
    Measurement,
    Rates,
    Target,
    alternating_rates,
    median,
    medians,
    percentile,
    ratio,
)
from benchmarks.engine.timed_engine import TimedEngine, TimedRequest, random_ids, running_engine

TARGETS = {
    "planner p95, ms": Target(3.0, at_most=True),
    "cold TTFT / a step behind 512 shared tokens": Target(3.0),
}
SHARED, OWN, ROUNDS = 512, 40, 7
COMPONENTS, CHOICES = 64, 500
REQUESTS, STEP_TOKENS, REPLY_TOKENS = 16, 6, 8
VALUE_PROMPT = 44
_NOTE = (
    f"a planned request is one pass over {SHARED + OWN} prompt tokens, then retrieve, reason and "
    f"formalize with {STEP_TOKENS}, {STEP_TOKENS} and {REPLY_TOKENS} tokens; an unplanned one is "
    f"the prompt with {REPLY_TOKENS} tokens of an adapter that begins behind the passages; "
    f"{REQUESTS} at once, which finish each step together"
)


def random_policy(state_width: int) -> PolicyArtifact:
    """Return a policy of the recipe's size with random weights.

    Args:
        state_width: Width of the base model's states.
    """
    tree, width = PlanTree(DEFAULT_ACTIONS), COMPONENTS + EVIDENCE_WIDTH
    torch.manual_seed(0)
    policy = PolicyNetwork(width + tree.features.shape[1], tree.factors)
    with torch.no_grad():
        policy.head.weight.normal_()
    card = PolicyCard(
        base_name="random",
        base_digest="0" * 64,
        feature_layer=8,
        command="benchmark",
        data_digest="0" * 64,
        seed=0,
        version=1,
        actions=[str(action) for action in tree.actions],
    )
    return PolicyArtifact(
        card,
        tree,
        policy,
        ActionValueNetwork(width + tree.features.shape[1], len(tree.actions)),
        FeatureProjection(torch.zeros(state_width), torch.randn(state_width, COMPONENTS)),
        torch.randn(2, width),
    )


def choice_times_ms(policy: PolicyArtifact, state: torch.Tensor) -> list[float]:
    """Return the time of each choice of a plan, from pooled state and passages to the plan.

    Args:
        policy: Policy that chooses.
        state: ``[D]`` pooled state.
    """
    hysteresis = PlanHysteresis(0.03, 2)
    sentence = "The plants of Union Oil were worth 374 million dollars in 1947."
    passages = tuple(f"{sentence} {place}" for place in range(20))
    times = []
    for place in range(CHOICES):
        began = time.perf_counter()
        evidence = Evidence(passages, f"How much were they worth in {place}? Then double it.")
        features = policy.projection.features(state, evidence)
        Planner(policy, hysteresis).choose(features, session=f"s{place % 50}")
        times.append((time.perf_counter() - began) * 1000)
    return times


def run(rounds: int) -> Measurement:
    """Time choices of plans, first tokens of steps, and requests with and without a plan."""
    with running_engine(max_sequences=16, adapters=3) as engine:
        width = engine.engine.backbone.model.config.hidden_size
        policy = random_policy(width)
        choice_times_ms(policy, torch.randn(width))  # warm-up
        choices = choice_times_ms(policy, torch.randn(width))
        cold, behind = _first_tokens_s(engine)
        rates = _request_rates(engine, rounds)
    p95 = percentile(choices, 0.95)
    return Measurement(
        {
            "planner_p50_ms": round(median(choices), 3),
            "planner_p95_ms": round(p95, 3),
            "cold_ttft_s": cold,
            "step_ttft_s": behind,
            "requests/s": medians(rates),
        },
        {
            "planner p95, ms": round(p95, 3),
            "cold TTFT / a step behind 512 shared tokens": round(cold / behind, 3),
            "planned requests/s / unplanned": ratio(rates["planned"], rates["unplanned"]),
        },
        [_NOTE],
    )


def _first_tokens_s(engine: TimedEngine) -> tuple[float, float]:
    """Return the median time to the first token of a step: passages new, and passages cached."""
    _submit(engine, 0, 0, 1).wait()  # warm-up
    cold = [_submit(engine, 1000 + place, place, 1).wait().ttft_s for place in range(ROUNDS)]
    _submit(engine, 1, 999, 1, adapted=False).wait()
    behind = [_submit(engine, 1, place, 1).wait().ttft_s for place in range(ROUNDS)]
    return median(cold), median(behind)


def _request_rates(engine: TimedEngine, rounds: int) -> Rates:
    """Return requests per second with and without a plan; every prompt is new."""
    prompts = iter(range(100_000, 200_000))

    def unplanned() -> float:
        began = time.perf_counter()
        _wait([_submit(engine, next(prompts), 0, REPLY_TOKENS) for _ in range(REQUESTS)])
        return REQUESTS / (time.perf_counter() - began)

    def planned() -> float:
        chosen = [next(prompts) for _ in range(REQUESTS)]
        began = time.perf_counter()
        _wait([_submit(engine, prompt, 0, 1, adapted=False) for prompt in chosen])
        _wait([_submit(engine, prompt, 1, STEP_TOKENS) for prompt in chosen])
        for step, tokens in ((1, STEP_TOKENS), (2, REPLY_TOKENS)):
            _wait(
                [
                    engine.submit(
                        random_ids(VALUE_PROMPT, prompt + step), tokens, adapter=f"s{step}"
                    )
                    for prompt in chosen
                ]
            )
        return REQUESTS / (time.perf_counter() - began)

    return alternating_rates({"unplanned": unplanned, "planned": planned}, rounds)


def _submit(
    engine: TimedEngine, passages: int, own: int, tokens: int, *, adapted: bool = True
) -> TimedRequest:
    """Submit a prompt of passages and a question, with an adapter behind the passages or none."""
    ids = random_ids(SHARED, passages) + random_ids(OWN, 900_000 + own)
    fields: dict[str, Any] = {"adapter": "s0", "adapter_start": SHARED} if adapted else {}
    return engine.submit(ids, tokens, **fields)


def _wait(requests: Sequence[TimedRequest]) -> None:
    for request in requests:
        request.wait()
