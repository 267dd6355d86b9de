"""Leetspeak: words whose letters are digits, signs, doubled or oddly capitalised, read as words.

A sign stands for several letters ("1" for i or l, "6" for g or b), so every run of letters and
signs has several readings. The most frequent English word among them counts, or a word with an
English ending. A run that has no such reading stays as it is, unless the text is leetspeak
throughout: there numbers are words too ("70" for to, "4" for a). Serial numbers, code, prices and
passwords have no such readings.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice, product

from bem_fleet.guard.scoring.english import segment, word_cost

# Letters of each sign, the likeliest first; pairs of signs before single ones.
_PAIRS = {"()": "o", "[]": "o", "|)": "d", "|3": "b", "/\\": "a", "\\/": "v", "|<": "k"}
_SIGNS = {
    "0": "o", "1": "il", "2": "z", "3": "e", "4": "a", "5": "s", "6": "gb", "7": "t", "8": "b",
    "9": "gq", "@": "a", "$": "s", "!": "il", "|": "il", "+": "t", "(": "c", "<": "ck",
}  # fmt: skip
_RUN = re.compile(r"[A-Za-z0-9@$!|+()\[\]<>/\\]+")
_EDGES = "!()[]<>/\\"
# Longer runs are data; of the readings of one run so many are tried, at most.
_MAX_RUN, _MAX_READINGS, _MAX_UNKNOWN_READINGS = 24, 32, 4
_ENDINGS = ("s", "es", "ed", "d", "ing", "er", "ers", "ly", "able", "z")
_MIN_STEM, _ENDING_COST = 3, 8.0
# Numbers are read as words in leetspeak if they are long, or one of the 1,500 most frequent words.
_MIN_NUMBER_WORD, _MAX_NUMBER_COST = 4, 9.6
_MIN_EVIDENCE_LETTERS, _MIN_EVIDENCE, _EVIDENCE_SHARE = 3, 2, 5
_MAX_GATE_RUNS = 200
# Cost of a part of an unknown word that is no word itself.
_PART_COST = 20.0
_ORDINAL = re.compile(r"\d*(?:1st|2nd|3rd|\dth)", re.IGNORECASE)
_REPEATED = re.compile(r"([a-z])\1+")
_MAX_REPEATS = 4


def undo_leetspeak(text: str) -> str:
    """Return the text with runs of letters and signs, and doubled letters, read as words.

    Example: ``"h0w t0 b@ke brread"`` gives ``"how to bake bread"``.

    Args:
        text: Text of any length; the work is linear in it.
    """
    everywhere = is_leetspeak(text)
    return _RUN.sub(lambda match: _reading(match[0], everywhere=everywhere), text)


def is_leetspeak(text: str) -> bool:
    """Return whether two runs and a fifth of all are words with signs or odd capitals."""
    runs = [match[0] for match in islice(_RUN.finditer(text), _MAX_GATE_RUNS)]
    found = sum(_is_evidence(run) for run in runs)
    return found >= _MIN_EVIDENCE and _EVIDENCE_SHARE * found >= len(runs)


@lru_cache(maxsize=1 << 14)  # the words of a text recur
def _is_evidence(run: str) -> bool:
    core = run.strip(_EDGES)
    if not (_is_mixed(core) or _has_odd_case(core)):
        return False
    word = _best_word(core.lower())
    return len(word) >= _MIN_EVIDENCE_LETTERS


@lru_cache(maxsize=1 << 14)
def _reading(run: str, *, everywhere: bool) -> str:
    """Return the reading of a run, with the signs at its edges; the run itself if it has none."""
    if len(run) > _MAX_RUN or _ORDINAL.fullmatch(run):
        return run
    lower = run.lower()
    core = lower.strip(_EDGES)
    before, _, after = lower.partition(core) if core else ("", "", "")
    if lower.isalpha():
        odd = everywhere and _has_odd_case(run)
        return _undoubled(lower) if odd else _in_case(run, _undoubled(lower))
    has_letters = any(one.isalpha() for one in lower)
    if not has_letters and not everywhere:
        return run
    # The signs at the edges are letters too, or brackets and the end of a sentence.
    words = [(before + word + after, word) for word in [_best_word(core)] if word]
    if core != lower:
        words += [(word, word) for word in [_best_word(lower)] if word]
    if words:
        reading, word = min(words, key=lambda pair: _cost(pair[1]))
        if has_letters or len(word) >= _MIN_NUMBER_WORD or _cost(word) <= _MAX_NUMBER_COST:
            return _in_case(run, reading)
    if has_letters and (everywhere or _hides_letters(core)):
        return _in_case(run, before + _likeliest(core) + after)
    return run


def _in_case(run: str, reading: str) -> str:
    """Return the reading in the case of its run; signs have none."""
    if reading == run.lower():
        return run
    return reading.capitalize() if run[0].isupper() and not run.isupper() else reading


def _is_mixed(run: str) -> bool:
    return any(one.isalpha() for one in run) and not run.isalpha()


def _has_odd_case(run: str) -> bool:
    """Return whether letters have capitals elsewhere than at the start or throughout."""
    return run.isalpha() and run not in (run.lower(), run.upper(), run.capitalize())


def _hides_letters(core: str) -> bool:
    """Return whether a sign stands between the letters of a run that has more letters than signs.

    Versions and sizes end in their digits: utf8, sha256, mp3.
    """
    letters = sum(one.isalpha() for one in core)
    plain = len(core) > 3 and core[-1:].isalpha() and 2 * letters > len(core)
    return plain and not any(one in "()[]<>/\\+" for one in core)


def _best_word(run: str) -> str:
    """Return the most frequent word among the readings of a lower-case run; empty if none is."""
    readings = [(_cost(word), word) for one in _readings(run) for word in (one, _undoubled(one))]
    cost, word = min(readings, default=(0.0, ""))
    return word if word and cost < float("inf") else ""


def _likeliest(run: str) -> str:
    """Return the reading of an unknown word whose parts are the most frequent words."""
    tried = list(islice(_readings(run), _MAX_UNKNOWN_READINGS))
    if not tried:
        return run
    return min(
        tried, key=lambda one: sum(min(_cost(part), _PART_COST) for part in segment(one).split())
    )


def _readings(run: str) -> Iterator[str]:
    """Yield the readings of a run, at most 32; none if a sign stands for no letter."""
    choices: list[str] = []
    at = 0
    while at < len(run):
        pair = _PAIRS.get(run[at : at + 2])
        one = run[at]
        letters = pair or (one if one.isalpha() else _SIGNS.get(one, ""))
        if not letters:
            return
        choices.append(letters)
        at += 2 if pair else 1
    for chosen in islice(product(*choices), _MAX_READINGS):
        yield "".join(chosen)


def _undoubled(word: str) -> str:
    """Return the most frequent word that a word with doubled letters may be; else the word."""
    runs = list(_REPEATED.finditer(word))
    if not runs or len(runs) > _MAX_REPEATS or _cost(word) < float("inf"):
        return word
    best = min(_shortened(word, runs), key=_cost)
    return best if _cost(best) < float("inf") else word


def _shortened(word: str, runs: Sequence[re.Match[str]]) -> Iterator[str]:
    """Yield the word with each run of one letter cut to one or to two letters."""
    for lengths in product((1, 2), repeat=len(runs)):
        parts, at = [], 0
        for run, length in zip(runs, lengths, strict=True):
            parts += [word[at : run.start()], run[1] * length]
            at = run.end()
        yield "".join([*parts, word[at:]])


@lru_cache(maxsize=1 << 15)
def _cost(word: str) -> float:
    """Return the cost of a word, or of a word with an ending or ``un``; else infinite."""
    own = word_cost(word)
    if own < float("inf"):
        return own
    bare = word.removeprefix("un")
    stems = [bare, *(bare[: -len(end)] for end in _ENDINGS if bare.endswith(end))]
    return _ENDING_COST + min(
        (word_cost(stem) for stem in stems if len(stem) >= _MIN_STEM), default=float("inf")
    )
