"""Composition engine: steps, typed values and the shared prefix."""

from dataclasses import replace
from pathlib import Path

import pytest
from bem.engine import GenerationRequest, LLMEngine, Sampling
from bem.engine.plan_run import DIRECT, STEP_TOKENS, PlanRun, StepOutput
from bem.engine.prefix_cache import BLOCK_TOKENS
from bem.errors import InvalidRequestError
from bem.policy.actions import FIXED_PLAN, MacroAction, Plan
from bem.policy.step_prompts import PlanInput
from bem.prompt_encoding import PromptEncoder
from bem.testing import tiny_backbone

from tests.unit.bem.engine.engines import make_engine, run_turns, submit, write_adapters

INPUT = PlanInput(
    "The river is 12 miles long. The lake is near the hill and has an island in it.",
    "Take the answer to this question: How long is the river? Then double it. Reply in capitals.",
)
ENCODER = PromptEncoder(tiny_backbone().tokenizer)
LAST = GenerationRequest(
    (0,), Sampling(temperature=0.7, seed=1), max_tokens=9, stop=("#",), client="c", min_tokens=2
)
ADAPTERS = {"retrieve": "alpha", "reason": "beta"}


def text_of(request: GenerationRequest | None) -> str:
    """Return the prompt of a request as text."""
    assert request is not None
    text: str = tiny_backbone().tokenizer.decode(request.prompt_ids)
    return text


def start(plan: Plan = FIXED_PLAN) -> PlanRun:
    """Return a run of a plan."""
    return PlanRun(plan, INPUT, ENCODER, ADAPTERS, last=LAST)


def test_each_step_sees_its_own_part_alone() -> None:
    """Passages reach the first step only; values and the last format go on."""
    run = start()

    retrieve = text_of(run.next_request())
    run.finish_step(StepOutput(" 12 | 30 \nmore"))
    reason = text_of(run.next_request())
    run.finish_step(StepOutput("42; 84"))
    formalize = text_of(run.next_request())
    run.finish_step(StepOutput("84!"))

    assert "12 miles" in retrieve
    assert "How long is the river?" in retrieve
    assert "double" not in retrieve
    assert "Values: 12 | 30\nThen double it." in reason
    assert "miles" not in reason
    assert "Value: 84\nReply in capitals." in formalize
    assert run.next_request() is None
    assert run.reply == "84!"
    assert [one.value and one.value.kind for one in run.results] == ["number", "number", None]


def test_only_the_last_step_has_the_clients_settings() -> None:
    """Intermediate steps are greedy and short; client and deadline are the same everywhere."""
    run = start()

    first = run.next_request()
    run.finish_step(StepOutput("1"))
    run.next_request()
    run.finish_step(StepOutput("2"))
    last = run.next_request()

    assert first is not None
    assert last is not None
    assert (first.sampling.temperature, first.max_tokens, first.stop) == (0, STEP_TOKENS, ())
    assert first.min_tokens == 0
    assert (last.sampling, last.max_tokens, last.stop) == (LAST.sampling, 9, ("#",))
    assert first.client == last.client == "c"
    assert run.at_last_step


def test_adapters_start_behind_the_shared_prefix() -> None:
    """A suffix span leaves the passages to the base model, a prompt span does not."""
    suffix = start((MacroAction("retrieve"), *FIXED_PLAN[1:])).next_request()
    prompt = start((MacroAction("retrieve", span="prompt"), *FIXED_PLAN[1:])).next_request()
    direct = start((DIRECT,)).next_request()

    assert suffix is not None
    assert prompt is not None
    assert direct is not None
    assert suffix.adapter == prompt.adapter == "alpha"
    assert prompt.adapter_start == 0
    assert text_of(replace(suffix, prompt_ids=suffix.prompt_ids[: suffix.adapter_start])).endswith(
        INPUT.passages
    )
    assert direct.adapter is None


def test_a_rank_budget_reaches_the_request() -> None:
    """The engine truncates the adapter of the step."""
    request = start((MacroAction("retrieve", rank_budget=2), *FIXED_PLAN[1:])).next_request()

    assert request is not None
    assert request.adapter_rank == 2


def test_a_step_without_a_value_is_followed_by_a_direct_answer() -> None:
    """An empty value would only make the later steps guess."""
    run = start()
    run.next_request()
    run.finish_step(StepOutput("  \n"))

    request = run.next_request()

    assert run.replanned
    assert run.at_last_step
    assert INPUT.question in text_of(request)
    assert INPUT.passages in text_of(request)
    run.finish_step(StepOutput("done"))
    assert run.next_request() is None
    assert [one.action.adapter for one in run.results] == ["retrieve", "general"]


def test_a_plan_that_does_not_fit_is_refused() -> None:
    """A client's plan is checked before anything runs."""
    with pytest.raises(InvalidRequestError, match="plan"):
        start((MacroAction("reason", "values"),))


def test_an_output_without_a_request_is_refused() -> None:
    """Each output belongs to a request."""
    with pytest.raises(ValueError, match="next_request"):
        start().finish_step(StepOutput("x"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters on disk."""
    return write_adapters(tmp_path_factory.mktemp("adapters"))


def test_steps_of_other_adapters_reuse_the_passages(folder: Path) -> None:
    """The base model's keys and values of the passages serve every adapter's step."""
    engine = make_engine(tiny_backbone(context_tokens=1024), folder)
    plan = (MacroAction("retrieve"), MacroAction("reason", "both"), MacroAction("general", "both"))
    run = PlanRun(plan, INPUT, ENCODER, ADAPTERS, last=LAST)

    for output in ("7", "8", "9"):
        complete_step(engine, run, output)

    first, second, third = run.results
    assert first.output.cached_tokens == 0
    blocks = second.shared_tokens // BLOCK_TOKENS * BLOCK_TOKENS
    assert blocks >= BLOCK_TOKENS
    assert second.output.cached_tokens >= blocks
    assert third.output.cached_tokens >= blocks
    assert 0 < run.cached_share < 1
    assert second.output.adapter_version != first.output.adapter_version


def complete_step(engine: LLMEngine, run: PlanRun, text: str) -> None:
    """Compute a step and pass ``text`` on in place of the random model's output."""
    request = run.next_request()
    assert request is not None
    reader, _ = submit(engine, request)
    while engine.counters.running or engine.counters.waiting:
        run_turns(engine, 1)
    last = reader.deltas()[-1]
    run.finish_step(
        StepOutput(text, last.completion_tokens, last.cached_tokens, last.adapter_version)
    )


def test_the_mean_state_of_a_prompt_is_reported_once(folder: Path) -> None:
    """Only a request that asks gets it, in its first delta, the same with a warm cache."""
    engine = make_engine(tiny_backbone(), folder)
    request = GenerationRequest(
        tuple(ENCODER.encode_text(INPUT.passages)), Sampling(temperature=0), max_tokens=4
    )
    found = []
    for pools in (True, True, False):
        reader, _ = submit(engine, replace(request, pools_prompt=pools, ignore_eos=True))
        while engine.counters.running or engine.counters.waiting:
            run_turns(engine, 1)
        found.append([one.prompt_state for one in reader.deltas()])

    assert all(state is None for state in (*found[0][1:], *found[2]))
    assert found[0][0] is not None
    assert found[1][0] is not None
    assert found[0][0].shape == (32,)
    assert found[0][0].equal(found[1][0])
