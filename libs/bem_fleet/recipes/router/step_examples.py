"""Training examples of the router's tasks, cut from the gold steps of record questions.

Every side of a comparison learns from the same questions: the tasks of plans learn one step each,
the monoliths the reply alone (``monolith-direct``) or all steps in one reply (``monolith-chain``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bem.backbone import Backbone
from bem.policy.actions import MacroAction
from bem.policy.step_prompts import PlanInput, StepPrompt, parse_value, step_prompt
from bem.prompt_encoding import PromptEncoder
from bem.training.activation_cache import EncodedExample, TokenPair, encode_sequences
from bem.training.prefix_states import PrefixEncoder
from bem.training.strategy import ComputeDtype

from bem_fleet.data.record_facts import gold_steps
from bem_fleet.data.records import Record

PLAN_TASKS = ("retrieve", "reason", "formalize", "general")
MONOLITHS = ("monolith-direct", "monolith-chain")
DIRECT = MacroAction("general", "passages", "prompt")
"""Input of a monolith: the whole prompt, with the adapter from the first token on."""


@dataclass(frozen=True)
class StepExample:
    """Prompt of a step with its wanted output.

    Attributes:
        prompt: Conversation of the step.
        target: Wanted output.
        activated: Whether the adapter starts behind the shared messages.
    """

    prompt: StepPrompt
    target: str
    activated: bool


def step_examples(records: Sequence[Record], task: str) -> list[StepExample]:
    """Return the examples of a task.

    Args:
        records: Questions about record facts.
        task: One of ``PLAN_TASKS`` or ``MONOLITHS``.

    Raises:
        ValueError: The task is unknown.
    """
    if task not in (*PLAN_TASKS, *MONOLITHS):
        raise ValueError(f"task {task!r} is unknown; use {', '.join((*PLAN_TASKS, *MONOLITHS))}")
    return [_example(record, task, place) for place, record in enumerate(records)]


def reply_of(task: str, text: str) -> str:
    """Return the reply in an output of a task; a chain's reply is its last line."""
    return text.strip().rpartition("\n")[2] if task == "monolith-chain" else text.strip()


def plan_input(record: Record) -> PlanInput:
    """Return a question as the router's input."""
    return PlanInput(record.passage, record.question)


def encode_examples(
    backbone: Backbone,
    examples: Sequence[StepExample],
    *,
    first_layer: int,
    feature_layer: int,
    folder: Path,
    compute_dtype: ComputeDtype = "auto",
) -> list[EncodedExample]:
    """Return the examples as the layers with sites read them.

    An adapter that starts behind shared messages reads their keys and values from the cache, so
    that its examples hold only the tokens behind them.

    Args:
        backbone: Base model without sites.
        examples: Prompts with their wanted outputs.
        first_layer: First decoder layer with sites.
        feature_layer: Layer whose output the controller reads.
        folder: Cache folder of the states.
        compute_dtype: Dtype of matrix products.
    """
    encoder = PromptEncoder(backbone.tokenizer)
    pairs, starts = [], []
    for one in examples:
        pair, start = _tokenise(backbone, encoder, one)
        pairs.append(pair)
        starts.append(start)
    behind = [place for place, start in enumerate(starts) if start]
    whole = [place for place, start in enumerate(starts) if not start]
    found: dict[int, EncodedExample] = {}
    if behind:
        prefixes = PrefixEncoder(
            backbone,
            first_layer=first_layer,
            feature_layer=feature_layer,
            folder=folder / "prefixes",
            compute_dtype=compute_dtype,
        )
        encoded = prefixes.encode([pairs[i] for i in behind], [starts[i] for i in behind])
        found |= dict(zip(behind, encoded, strict=True))
    if whole:
        encoded = encode_sequences(
            backbone,
            [pairs[i] for i in whole],
            first_layer=first_layer,
            feature_layer=feature_layer,
            folder=folder / "states",
            compute_dtype=compute_dtype,
        )
        found |= dict(zip(whole, encoded, strict=True))
    return [example for _, example in sorted(found.items())]


def token_pairs(backbone: Backbone, examples: Sequence[StepExample]) -> list[TokenPair]:
    """Return the token ids of each prompt and target."""
    encoder = PromptEncoder(backbone.tokenizer)
    return [_tokenise(backbone, encoder, one)[0] for one in examples]


def loss_tokens(examples: Sequence[EncodedExample]) -> int:
    """Return the number of tokens that are trained in one epoch, for the parity of two sides."""
    return sum(int((one.labels >= 0).sum()) for one in examples)


def shared_tokens(ids: Sequence[int], prefix: Sequence[int]) -> int:
    """Return the number of tokens that both begin with."""
    pairs = enumerate(zip(ids, prefix, strict=False))
    return next((place for place, (one, other) in pairs if one != other), len(prefix))


def _example(record: Record, task: str, place: int) -> StepExample:
    request = plan_input(record)
    values, results, reply = gold_steps(record)
    retrieved, result = parse_value("retrieve", values), parse_value("reason", results)
    # A task that plans use with two inputs learns both, in turns: one example an item.
    first = place % 2 == 0
    if task == "retrieve":
        action, value, target = MacroAction("retrieve"), None, values
    elif task == "reason":
        action = MacroAction("reason", "values" if first else "both")
        value, target = retrieved, results
    elif task == "formalize":
        action, value, target = MacroAction("formalize", "values"), result, reply
    elif task == "general":
        action = MacroAction("general", "passages" if first else "values")
        value, target = None if first else retrieved, reply
    else:
        target = reply if task == "monolith-direct" else f"{values}\n{results}\n{reply}"
        return StepExample(step_prompt(DIRECT, request, None), target, activated=False)
    return StepExample(step_prompt(action, request, value), target, activated=True)


def _tokenise(
    backbone: Backbone, encoder: PromptEncoder, example: StepExample
) -> tuple[TokenPair, int]:
    ids = encoder.encode_chat(example.prompt.messages)
    reply = [*encoder.encode_text(example.target), min(backbone.end_token_ids)]
    if not example.activated or not example.prompt.shared:
        return (ids, reply), 0
    prefix = encoder.encode_chat(example.prompt.shared, add_generation_prompt=False)
    return (ids, reply), shared_tokens(ids, prefix)
