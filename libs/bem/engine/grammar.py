r"""Grammars of structured output: compiled once a form, then a token mask at each position.

The grammar engine is llguidance. It refuses what it does not enforce, where others ignore it, so an
output that ends by itself always has the form. See ADR 0046.

Texts inside JSON are written without ``\uXXXX``: a word that is spelled in escapes would pass the
reader of the text beside the model, such as a content guard.
"""

import json
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from torch import Tensor

from bem.backbone import Backbone
from bem.errors import InvalidRequestError

FormKind = Literal["json_object", "json_schema", "regex", "grammar", "choice", "tools"]
FIELD, TOOLS_FIELD = "structured_output", "chat.tools"
MAX_FORM_CHARS = 65_536
MAX_CHOICES, MAX_CHOICE_CHARS = 256, 1024
# Brackets within brackets. Parsers recurse, and a stack that overflows ends the process.
MAX_DEPTH = 64
_CACHED_GRAMMARS = 64
_MAX_REASON = 300
# Later options win over those that a schema names itself under "x-guidance". Between two tokens of
# JSON stands a blank or a line break with an indent: small models write blanks for ever.
JSON_OPTIONS: Any = {
    "item_separator": ",",
    "key_separator": ":",
    "whitespace_pattern": r"( |\n {0,20})",
    "coerce_one_of": False,
    "lenient": False,
    "json_allowed_escapes": 'nrbtf\\"',
    "json_allow_general_unicode_escapes": False,
}


@dataclass(frozen=True)
class OutputForm:
    """Form that a whole output has.

    Attributes:
        kind: Language in which ``text`` describes the form; ``tools`` is a grammar that
            ``bem.engine.tool_grammar`` wrote.
        text: JSON Schema as JSON text, regular expression, or grammar in llguidance's dialect of
            Lark; at most 65,536 characters, empty for ``json_object`` and ``choice``.
        choices: Texts of which one is the output, for ``choice``: 1 to 256 different ones of 1 to
            1,024 characters.
    """

    kind: FormKind
    text: str = ""
    choices: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        """Name of the request field that errors report."""
        return TOOLS_FIELD if self.kind == "tools" else f"{FIELD}.{self.kind}"


class Grammar:
    """A compiled form, shared by the requests that ask for it.

    Args:
        form: The form.
        matcher: Matcher at the start of the output; never advanced itself.
        allowed_ids: ``[V]`` bool, tokens that an output may have at all.
        worker: Thread on which masks are computed.
    """

    def __init__(
        self, form: OutputForm, matcher: Any, allowed_ids: Tensor, worker: ThreadPoolExecutor
    ) -> None:
        self.form = form
        self._matcher = matcher
        self._allowed_ids = allowed_ids
        self._worker = worker

    def begin(self) -> "TokenMask":
        """Return the mask of one output, at its start."""
        return TokenMask(self.form, self._matcher.deep_copy(), self._allowed_ids, self._worker)


class TokenMask:
    """Tokens that may come next in one output.

    The mask of a position is computed on a thread of its own from the moment the token before it
    is known, while the model computes its logits; llguidance needs no interpreter lock.

    Args:
        form: Form of the output.
        matcher: Matcher at the start of the output.
        allowed_ids: ``[V]`` bool, tokens that an output may have at all.
        worker: Thread on which masks are computed.
    """

    def __init__(
        self, form: OutputForm, matcher: Any, allowed_ids: Tensor, worker: ThreadPoolExecutor
    ) -> None:
        self._form = form
        self._matcher = matcher
        self._allowed_ids = allowed_ids
        self._worker = worker
        self._next: Future[Tensor] = worker.submit(self._compute)

    def allowed(self) -> Tensor:
        """Return the tokens that may come next, ``[V]`` bool; at least one may.

        Raises:
            InvalidRequestError: The form is too complex here, or no token continues it.
        """
        return self._next.result()

    def advance(self, token: int) -> bool:
        """Take a sampled token, no end token; return whether the output is complete after it.

        Raises:
            InvalidRequestError: The token leaves the form.
        """
        if not self._matcher.consume_token(token):
            raise self._refusal()
        if self._matcher.is_stopped():
            return True
        self._next = self._worker.submit(self._compute)
        return False

    def _compute(self) -> Tensor:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise self._refusal()
        unpacked = np.unpackbits(bits, bitorder="little")[: len(self._allowed_ids)]
        allowed = torch.from_numpy(unpacked.view(np.bool_)) & self._allowed_ids
        if not allowed.any():
            raise InvalidRequestError(
                self._form.field, "no token of the model continues the output here; change the form"
            )
        return allowed

    def _refusal(self) -> InvalidRequestError:
        return _refused(self._form, self._matcher.get_error())


class GrammarCompiler:
    """Compiles forms for one model, on any thread; the latest ones are kept.

    Args:
        backbone: The model; its tokenizer is read with the first form.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._reading, self._changing = threading.Lock(), threading.Lock()
        self._model: _ModelTokens | None = None
        self._grammars: OrderedDict[OutputForm, Grammar] = OrderedDict()

    def compile(self, form: OutputForm) -> Grammar:
        """Return the grammar of a form; takes milliseconds, and up to a second if it is complex.

        Raises:
            InvalidRequestError: The form is malformed or too complex, it has a keyword that is not
                enforced, which the error names, or llguidance cannot read the model's tokenizer.
        """
        with self._changing:
            if grammar := self._grammars.get(form):
                self._grammars.move_to_end(form)
                return grammar
        source, tokens = _source(form), self._tokens()
        limits = LLParserLimits(verbose_errors=False)
        matcher = LLMatcher(tokens.tokenizer, source, log_level=0, limits=limits)
        if matcher.is_error():
            raise _refused(form, matcher.get_error())
        grammar = Grammar(form, matcher, tokens.allowed, tokens.worker)
        with self._changing:
            self._grammars[form] = grammar
            if len(self._grammars) > _CACHED_GRAMMARS:
                self._grammars.popitem(last=False)
        return grammar

    def _tokens(self) -> "_ModelTokens":
        with self._reading:
            if self._model is None:
                self._model = _read_tokens(self._backbone)
            return self._model


@dataclass(frozen=True)
class _ModelTokens:
    """Vocabulary of a model as llguidance reads it, and the thread that computes masks."""

    tokenizer: Any
    allowed: Tensor
    worker: ThreadPoolExecutor


def check_form(form: OutputForm) -> None:
    """Check the limits of a form, which need no model.

    Raises:
        InvalidRequestError: A text is too long or too deep, or the choices are too many or repeat.
    """
    if len(form.text) > MAX_FORM_CHARS:
        raise InvalidRequestError(
            form.field, f"{len(form.text)} characters; at most {MAX_FORM_CHARS} are allowed"
        )
    if (depth := _depth(form.text)) > MAX_DEPTH:
        raise InvalidRequestError(
            form.field, f"brackets are nested {depth} deep; at most {MAX_DEPTH} are allowed"
        )
    if form.kind == "choice":
        _check_choices(form)
    elif form.kind != "json_object" and not form.text:
        raise InvalidRequestError(form.field, "is empty; describe the output")


def _check_choices(form: OutputForm) -> None:
    if not 1 <= len(form.choices) <= MAX_CHOICES:
        raise InvalidRequestError(
            form.field, f"{len(form.choices)} texts; 1 to {MAX_CHOICES} are allowed"
        )
    if len(set(form.choices)) < len(form.choices):
        raise InvalidRequestError(form.field, "a text occurs twice; name each once")
    for text in form.choices:
        if not 1 <= len(text) <= MAX_CHOICE_CHARS:
            raise InvalidRequestError(
                form.field,
                f"a text of {len(text)} characters; 1 to {MAX_CHOICE_CHARS} are allowed",
            )


def _depth(text: str) -> int:
    """Return how deep brackets are nested at most, whether or not they stand in quotes."""
    depth = deepest = 0
    for letter in text:
        if letter in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in ")]}":
            depth = max(0, depth - 1)
    return deepest


def _source(form: OutputForm) -> str:
    """Return the form in llguidance's own language."""
    check_form(form)
    if form.kind == "regex":
        return str(LLMatcher.grammar_from_regex(form.text))
    if form.kind in ("grammar", "tools"):
        return str(LLMatcher.grammar_from_lark(form.text))
    if form.kind == "choice":
        quoted = " | ".join(json.dumps(one, ensure_ascii=False) for one in form.choices)
        return str(LLMatcher.grammar_from_lark(f"start: {quoted}"))
    text = '{"type": "object"}' if form.kind == "json_object" else form.text
    try:
        if not isinstance(json.loads(text), dict):
            raise InvalidRequestError(form.field, "is no JSON object; a schema is an object")
        return str(LLMatcher.grammar_from_json_schema(text, overrides=JSON_OPTIONS))
    except ValueError as err:
        raise InvalidRequestError(form.field, f"is not valid JSON: {err}") from err


def _refused(form: OutputForm, reason: str) -> InvalidRequestError:
    """Return the error of a form that llguidance refuses, with its reason in one line."""
    line = " ".join(reason.split())[:_MAX_REASON] or "the output left it"
    return InvalidRequestError(form.field, f"is not served: {line}; change it")


def _read_tokens(backbone: Backbone) -> _ModelTokens:
    tokenizer: Any = backbone.tokenizer
    width = int(backbone.model.lm_head.weight.shape[0])
    ends = sorted(token for token in backbone.end_token_ids if token < width)
    try:
        read = LLTokenizer(tokenizer.backend_tokenizer.to_str(), n_vocab=width, eos_token=ends)
    except (AttributeError, ValueError) as err:
        raise InvalidRequestError(
            FIELD, "grammars cannot read this model's tokenizer; ask for plain text"
        ) from err
    # No control tokens but end tokens: only the chat template makes them.
    allowed = torch.ones(width, dtype=torch.bool)
    control = [token for token, one in tokenizer.added_tokens_decoder.items() if one.special]
    allowed[[token for token in control if token < width]] = False
    allowed[ends] = True
    return _ModelTokens(read, allowed, ThreadPoolExecutor(1, thread_name_prefix="bem-token-masks"))
