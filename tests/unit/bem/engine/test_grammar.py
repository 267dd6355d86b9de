"""Grammars: forms compiled, refused by name, and the tokens that they allow."""

import json
import re
from typing import Any

import jsonschema
import pytest
from bem.engine import GenerationRequest, LLMEngine, OutputDelta, OutputForm, Sampling
from bem.engine.grammar import GrammarCompiler, check_form
from bem.errors import InvalidRequestError
from bem.testing import tiny_backbone

from tests.unit.bem.engine.engines import DeltaReader, encode, make_engine, submit, write_adapters

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
LARK = 'start: "go " way\nway: "left" | "right " way\n'


def schema_form(schema: Any) -> OutputForm:
    """Return the form of a schema."""
    return OutputForm("json_schema", json.dumps(schema))


FORMS = {
    "json_object": OutputForm("json_object"),
    "json_schema": schema_form(PERSON),
    "regex": OutputForm("regex", r"[ab]{2,4}-\d"),
    "grammar": OutputForm("grammar", LARK),
    "choice": OutputForm("choice", choices=('say "yes"', "nein\n", "ö\x01")),
}


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    """A compiler for the tiny model."""
    return GrammarCompiler(tiny_backbone())


def accepts(compiler: GrammarCompiler, form: OutputForm, text: str) -> bool:
    """Return whether a text has a form: every token is allowed, and at its end the end token."""
    mask = compiler.compile(form).begin()
    tokens = encode(text)
    for index, token in enumerate(tokens):
        if not mask.allowed()[token]:
            return False
        if mask.advance(token):
            return index == len(tokens) - 1
    return bool(mask.allowed()[min(tiny_backbone().end_token_ids)])


@pytest.mark.parametrize(
    ("kind", "text", "has_form"),
    [
        ("json_object", '{"a": [1, null], "b": {}}', True),
        ("json_object", '{\n  "a": 1\n}', True),
        ("json_object", "[1]", False),
        ("json_object", '{"a":  1}', False),
        ("json_schema", '{"name": "Bo", "age": 7, "tags": ["b"]}', True),
        ("json_schema", '{"name": "Bo", "age": 121, "tags": []}', False),
        ("json_schema", '{"name": "Bo", "age": 7}', False),
        ("json_schema", '{"name": "\\u0042o", "age": 7, "tags": []}', False),
        ("regex", "aab-7", True),
        ("regex", "a-7", False),
        ("grammar", "go right left", True),
        ("grammar", "go right ", False),
        ("choice", 'say "yes"', True),
        ("choice", "nein\n", True),
        ("choice", "ö\x01", True),
        ("choice", "nein", False),
    ],
)
def test_a_form_allows_its_texts_alone(
    compiler: GrammarCompiler, kind: str, text: str, has_form: bool
) -> None:
    """Each kind of form takes what it describes; blanks are bounded and escapes are spelled out."""
    assert accepts(compiler, FORMS[kind], text) is has_form


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"properties": {"a": {"type": "string", "format": "colour"}}}, "colour"),
        ({"$ref": "other.json"}, "other.json"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"uniqueItems": True, "x-guidance": {"lenient": True}}, "uniqueItems"),
        ({"contains": {"type": "string"}}, "contains"),
    ],
)
def test_what_is_not_enforced_is_refused_by_name(
    compiler: GrammarCompiler, schema: dict[str, Any], named: str
) -> None:
    """No keyword is ignored, not even if the schema asks for that."""
    with pytest.raises(InvalidRequestError, match=re.escape(named)) as caught:
        compiler.compile(schema_form(schema))
    assert caught.value.field == "structured_output.json_schema"
    assert "\n" not in caught.value.problem


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        (OutputForm("json_schema", "{"), "not valid JSON"),
        (OutputForm("json_schema", "[]"), "no JSON object"),
        (OutputForm("json_schema", ""), "is empty"),
        (OutputForm("json_schema", '{"items":' * 65 + "{}" + "}" * 65), "at most 64"),
        (OutputForm("regex", "a" * 65_537), "at most 65536"),
        (OutputForm("regex", "(a"), "unclosed group"),
        (OutputForm("grammar", 'root ::= "a"'), "not served"),
        (OutputForm("choice"), "1 to 256"),
        (OutputForm("choice", choices=("a", "a")), "occurs twice"),
        (OutputForm("choice", choices=("",)), "1 to 1024"),
    ],
)
def test_a_malformed_form_is_refused(
    compiler: GrammarCompiler, form: OutputForm, problem: str
) -> None:
    """The error names the field and the limit."""
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        compiler.compile(form)
    assert caught.value.field == f"structured_output.{form.kind}"


def test_limits_need_no_model() -> None:
    """A request is checked before its model is asked."""
    with pytest.raises(InvalidRequestError, match="1 to 256"):
        check_form(OutputForm("choice", choices=tuple(map(str, range(257)))))


def test_control_tokens_are_never_allowed(compiler: GrammarCompiler) -> None:
    """A grammar that asks for one continues with nothing, which is refused."""
    turn = tiny_backbone().tokenizer.convert_tokens_to_ids("<|im_start|>")
    free = compiler.compile(OutputForm("regex", r"(.|\n)*")).begin().allowed()
    assert not free[turn]
    assert free.sum() > 100

    with pytest.raises(InvalidRequestError, match="no token"):
        compiler.compile(OutputForm("grammar", "start: <|im_start|>")).begin().allowed()


def test_a_form_is_compiled_once(compiler: GrammarCompiler) -> None:
    """Requests share the grammar, and each has a mask of its own."""
    form = OutputForm("regex", "ab")
    grammar = compiler.compile(form)
    first, second = grammar.begin(), grammar.begin()

    assert compiler.compile(OutputForm("regex", "ab")) is grammar
    assert not first.advance(encode("a")[0])
    assert first.allowed().nonzero().flatten().tolist() == list(encode("b"))
    assert second.allowed().nonzero().flatten().tolist() == list(encode("a"))


def last(reader: DeltaReader) -> tuple[str, OutputDelta]:
    """Return the text and the last delta of a request."""
    deltas = reader.deltas()
    return "".join(delta.text for delta in deltas), deltas[-1]


@pytest.fixture
def engine(tmp_path: Any) -> LLMEngine:
    """An engine with adapters that was not started."""
    return make_engine(tiny_backbone(), write_adapters(tmp_path))


def run(engine: LLMEngine) -> None:
    """Run the engine until nothing is left."""
    engine.turn()
    while engine.counters.running or engine.counters.waiting:
        engine.turn()


def sampled_request(
    form: OutputForm | None, seed: int, adapter: str | None = None
) -> GenerationRequest:
    """A sampled request."""
    return GenerationRequest(
        encode("hello"), Sampling(seed=seed), max_tokens=200, form=form, adapter=adapter
    )


def test_forms_free_text_and_adapters_run_in_one_batch(engine: LLMEngine) -> None:
    """Each row has its own form, free text is as it is alone, and the same seed gives the same."""
    rows = [
        sampled_request(FORMS["json_schema"], 1, "alpha"),
        sampled_request(FORMS["regex"], 2, "beta"),
        sampled_request(None, 3),
        sampled_request(FORMS["grammar"], 4),
        sampled_request(FORMS["choice"], 5, "alpha"),
    ]
    alone = []
    for row in rows:
        reader, _ = submit(engine, row)
        run(engine)
        alone.append(last(reader)[0])
    readers = [submit(engine, row)[0] for row in rows]
    run(engine)
    together = [last(reader) for reader in readers]

    assert [text for text, _ in together] == alone
    jsonschema.validate(json.loads(together[0][0]), PERSON)
    assert re.fullmatch(r"[ab]{2,4}-\d", together[1][0])
    assert re.fullmatch("go (right )*left", together[3][0])
    assert together[4][0] in FORMS["choice"].choices
    assert [end.finish for _, end in together if end.finish != "length"] == ["stop"] * 4


def test_an_output_that_the_limit_cuts_says_so(engine: LLMEngine) -> None:
    """A cut output ends with the reason length, a complete one with stop at its last token."""
    exact, _ = submit(engine, replace_limit(sampled_request(OutputForm("regex", "abc"), 1), 3))
    cut, _ = submit(engine, replace_limit(sampled_request(OutputForm("regex", "abc"), 1), 2))
    run(engine)

    text, end = last(exact)
    assert (text, end.finish, end.completion_tokens) == ("abc", "stop", 3)
    text, end = last(cut)
    assert (text, end.finish, end.completion_tokens) == ("ab", "length", 2)


def replace_limit(request: GenerationRequest, max_tokens: int) -> GenerationRequest:
    """Return a request with another limit."""
    return GenerationRequest(
        request.prompt_ids, request.sampling, max_tokens=max_tokens, form=request.form
    )


def test_bias_and_penalties_cannot_leave_the_form(engine: LLMEngine) -> None:
    """The end token and letters outside the form are pushed in vain."""
    end, outside, inside = min(tiny_backbone().end_token_ids), encode("z")[0], encode("a")[0]
    sampling = Sampling(
        temperature=0,
        logit_bias=((end, 100.0), (inside, -100.0), (outside, 100.0)),
        presence_penalty=2,
        logprobs=1,
    )
    reader, _ = submit(
        engine, GenerationRequest((1,), sampling, 50, form=OutputForm("regex", "a{5}"))
    )
    run(engine)
    deltas = reader.deltas()

    assert "".join(delta.text for delta in deltas) == "aaaaa"
    assert all(one.logprob <= 0 for delta in deltas for one in delta.logprobs)


def test_a_refused_form_takes_no_slot(engine: LLMEngine) -> None:
    """The request fails by name, and the engine serves all its rows afterwards."""
    refused, _ = submit(engine, sampled_request(schema_form({"not": {}}), 1))
    run(engine)
    with pytest.raises(InvalidRequestError, match="not"):
        refused.deltas()
    assert engine.core.scheduler.free_slots == 4
    assert engine.kv_tokens == 0


@pytest.mark.parametrize("field", ["min_tokens", "ignore_eos"])
def test_a_form_excludes_other_ends(field: str) -> None:
    """The form says where the output ends."""
    values: dict[str, Any] = {field: 2 if field == "min_tokens" else True}
    with pytest.raises(InvalidRequestError, match="excludes a form") as caught:
        GenerationRequest((1,), form=FORMS["regex"], **values)
    assert caught.value.field == field


def test_greedy_text_of_the_form_is_kept(engine: LLMEngine) -> None:
    """A form that allows every text changes none of them."""
    free = GenerationRequest(encode("hello"), Sampling(temperature=0), 30)
    formed = GenerationRequest(
        encode("hello"), Sampling(temperature=0), 30, form=OutputForm("regex", r"(.|\n)*")
    )
    readers = [submit(engine, one)[0] for one in (free, formed)]
    run(engine)
    texts = [last(reader)[0] for reader in readers]

    # The form is of characters: up to the first broken one the texts agree.
    assert texts[1].startswith(texts[0].partition("\ufffd")[0])
