"""Tests of adapter schedules: switches in a conversation keep earlier keys and values."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bem.adapters.bank import AdapterBank
from bem.backbone import Backbone
from bem.engine import GenerationRequest, Segment
from bem.engine.adapter_schedule import CHUNK_TOKENS
from bem.engine.prefix_cache import BLOCK_TOKENS
from bem.errors import InvalidRequestError
from bem.testing import tiny_backbone
from torch import Tensor

from tests.support.random_adapters import FEATURE_LAYER, LAYERS, RANK
from tests.unit.bem.engine.engines import GREEDY, complete, encode, make_engine, write_adapters

HISTORY = encode("We have talked about boats for a long while, and about the sea as well. " * 3)
PROMPT = (*HISTORY, *encode("Now answer in another way."))
AT = len(HISTORY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters on disk."""
    return write_adapters(tmp_path_factory.mktemp("adapters"))


def by_position(folder: Path, plan: list[tuple[str | None, Tensor | None]]) -> str:
    """Return the greedy answer of one forward over everything a token, each with its own code.

    Args:
        folder: Folder of the adapters.
        plan: Adapter and code of each position, the last one's also for what follows.
    """
    backbone = tiny_backbone()
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=3, feature_layer=FEATURE_LAYER)
    slots = {name: bank.load(folder / name).slot for name in ("alpha", "beta")}
    ids = list(PROMPT)
    for _ in range(12):
        codes = torch.zeros(1, len(ids), 2, RANK)
        for place in range(len(ids)):
            adapter, code = plan[min(place, len(plan) - 1)]
            if code is not None:
                codes[0, place, ["alpha", "beta"].index(str(adapter))] = code
        bank.row_codes.set(torch.tensor([[slots["alpha"], slots["beta"]]]), codes)
        with torch.no_grad():
            ids.append(int(backbone.model(torch.tensor([ids])).logits[0, -1].argmax()))
    text: str = backbone.tokenizer.decode(ids[len(PROMPT) :], skip_special_tokens=True)
    return text


def features(backbone: Backbone) -> Tensor:
    """Return the states that controllers read, ``[N, F]``."""
    with torch.no_grad():
        states = backbone.model(torch.tensor([PROMPT]), output_hidden_states=True).hidden_states
    out: Tensor = states[FEATURE_LAYER + 1][0]
    return out


def prefix_code(folder: Path, name: str, tokens: int) -> Tensor:
    """Return the code that an adapter's controller computes from the first tokens."""
    backbone = tiny_backbone()
    seen = features(backbone)
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=1, feature_layer=FEATURE_LAYER)
    controller = bank.load(folder / name).controller
    with torch.no_grad():
        code: Tensor = controller.prefix(seen[:tokens].mean(0, keepdim=True))[0]
    return code


def test_code_from_a_position_on_equals_a_run_by_position(folder: Path) -> None:
    """The output equals that of one forward pass in which each token has its own code."""
    request = GenerationRequest(PROMPT, GREEDY, max_tokens=12, adapter="alpha", adapter_start=AT)
    code = prefix_code(folder, "alpha", len(PROMPT))
    plan: list[tuple[str | None, Tensor | None]] = [(None, None)] * AT
    plan.append(("alpha", code))

    assert complete(make_engine(tiny_backbone(), folder), request) == by_position(folder, plan)


def test_earlier_adapter_keeps_its_codes(folder: Path) -> None:
    """The keys and values of an earlier adapter's turn stay as they were, chunk by chunk."""
    earlier_segments = Segment(start=0, code_prefix_tokens=40, adapter="beta")
    request = GenerationRequest(
        PROMPT,
        GREEDY,
        max_tokens=12,
        adapter="alpha",
        adapter_start=AT,
        earlier_segments=(earlier_segments,),
    )
    backbone = tiny_backbone()
    seen = features(backbone)
    bank = AdapterBank(backbone, layers=LAYERS, rank=RANK, slots=1, feature_layer=FEATURE_LAYER)
    controller = bank.load(folder / "beta").controller
    codes = [prefix_code(folder, "beta", 40)]
    plan: list[tuple[str | None, Tensor | None]] = [("beta", codes[0])] * (40 + CHUNK_TOKENS)
    with torch.no_grad():
        while len(plan) < AT:
            begin = len(plan) - CHUNK_TOKENS
            mean = seen[begin : begin + CHUNK_TOKENS].mean(0, keepdim=True)
            codes.append(controller.chunk(mean, codes[-1][None])[0])
            plan += [("beta", codes[-1])] * CHUNK_TOKENS
    plan = [*plan[:AT], ("alpha", prefix_code(folder, "alpha", len(PROMPT)))]

    assert complete(make_engine(tiny_backbone(), folder), request) == by_position(folder, plan)


def test_switch_reuses_the_history(folder: Path) -> None:
    """After a turn of the base model or of another adapter, only new tokens are computed."""
    engine = make_engine(tiny_backbone(), folder)
    history = GenerationRequest(HISTORY, GREEDY, max_tokens=1)
    switched = GenerationRequest(PROMPT, GREEDY, max_tokens=12, adapter="alpha", adapter_start=AT)
    earlier_segments = Segment(start=0, code_prefix_tokens=AT, adapter="beta")
    for before, after in (
        (history, switched),
        (replace(history, adapter="beta"), replace(switched, earlier_segments=(earlier_segments,))),
    ):
        fresh = complete(make_engine(tiny_backbone(), folder, prefix_bytes=0), after)
        complete(engine, before)
        reused = engine.counters.reused_tokens

        assert complete(engine, after) == fresh
        assert engine.counters.reused_tokens - reused == AT // BLOCK_TOKENS * BLOCK_TOKENS


def test_activation_at_the_start_is_the_plain_adapter(folder: Path) -> None:
    """At 0 nothing changes; at the prompt's end only the answer has the code."""
    plain = GenerationRequest(PROMPT, GREEDY, max_tokens=12, adapter="alpha")
    engine = make_engine(tiny_backbone(), folder)

    assert complete(engine, plain) == complete(engine, replace(plain, adapter_start=0))
    assert complete(engine, replace(plain, adapter_start=len(PROMPT)))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"adapter_start": len(PROMPT) + 1}, "adapter_start"),
        ({"adapter_start": -1}, "adapter_start"),
        ({"earlier_segments": (Segment(0, 1, "beta"),)}, "earlier_segments"),
        ({"adapter_start": 9, "earlier_segments": (Segment(9, 1, "beta"),)}, "earlier_segments"),
        (
            {"adapter_start": 9, "earlier_segments": (Segment(3, 1, "a"), Segment(3, 1, "b"))},
            "earlier_segments",
        ),
        ({"adapter_start": 9, "earlier_segments": (Segment(3, 0, "beta"),)}, "earlier_segments"),
    ],
)
def test_places_outside_the_prompt_are_named(changes: dict[str, object], field: str) -> None:
    """Segments must be in order before the adapter start, which lies in the prompt."""
    with pytest.raises(InvalidRequestError) as caught:
        replace(GenerationRequest(PROMPT), **changes)  # type: ignore[arg-type]

    assert caught.value.field == field
