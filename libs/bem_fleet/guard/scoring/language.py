"""Natural language: the share of a text's words in languages that the guard was not calibrated for.

Heads and thresholds hold for the languages of the heads' card. What is mainly in another language
cannot be judged, and the policy decides whether it passes. Words of other scripts tell their
language; words in Latin letters are identified sentence by sentence by CLD2 (McCandless, *Compact
Language Detector 2*, Apache License 2.0). Names, code, numbers and quoted scraps are no evidence:
words that start with a capital letter, words with digits or signs, and sentences of fewer than
three words are not counted as another language.

Ciphers and look-alikes of English are English: a text whose decoded reading is plain English has no
word in another language.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pycld2

from bem_fleet.guard.scoring.english import is_plain_english, is_word
from bem_fleet.guard.scoring.normalization import whole_readings

# The end of a sentence, or the edge of a quotation.
_SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+|\n+|[\"“”«»„]|(?<!\w)['\u2018]|['\u2019](?!\w)")
_EDGES = re.compile(r"^[^\w]+|[^\w]+$")
_LATIN = "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
_LATIN_WORD = re.compile(rf"[{_LATIN}]+(?:['\u2019-][{_LATIN}]+)*")
_OTHER_WORD = re.compile(rf"[^\W\d_{_LATIN}]+")
# Thai to Burmese, Khmer, and Han with kana: scripts without spaces, two letters to a word.
_NO_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_LETTERS_OF_WORD = 2
# Words of a sentence that is identified, at least and at most, and those that are no names.
_MIN_WORDS, _MAX_WORDS, _MIN_PLAIN_WORDS = 3, 16, 2
# Words from which on a sentence of capitalised words is no list of names.
_MIN_TITLE_WORDS = 8
# Share of words that are not English: of a sentence in a language that the detector tells well,
# and of one in a language that it also sees in code, from six words on.
_MIN_UNKNOWN, _MIN_UNKNOWN_RARE, _MIN_WORDS_RARE = 0.2, 0.6, 6
_WELL_KNOWN = frozenset(
    """
    af az bs ca cs cy da de es et eu fi fr ga gl hr ht hu id is it lt lv mt ms nl nn no pl pt ro sk
    sl so sq sr sv sw tl tr uz vi
    """.split()  # noqa: SIM905 - a list of quoted codes is harder to read
)
# Answers of the detector to scraps, filler text and Scots spellings.
_IN_DOUBT = ("un", "la", "sco")
# English words that are rare in other languages: a sentence with one in ten is English.
_ENGLISH_WORDS = frozenset(
    """
    the and you your that this with how what who does they his from about which when where why would
    should could please give tell write there their them him our not whose did were don't it's into
    """.split()  # noqa: SIM905 - as above
)
_ENGLISH_SHARE = 10


# Longer ciphers are judged as they are written.
_MAX_DECODED_CHARS = 8192


@dataclass
class _Words:
    """Words of a text.

    Attributes:
        all: Number of words.
        unjudged: Those in a language that is not judged.
    """

    all: float = 0.0
    unjudged: float = 0.0

    def add(self, count: float, *, unjudged: bool) -> None:
        self.all += count
        self.unjudged += count if unjudged else 0.0


def unjudged_share(text: str, judged: Collection[str], *, min_words: int = 1) -> float:
    """Return the share of words in languages that are not judged, 0 to 1.

    Args:
        text: Text of any length; the work is linear in it.
        judged: ISO 639-1 codes of the languages that are judged.
        min_words: Fewer words in other languages count as none. The beginning of a stream may be a
            greeting that is quoted.
    """
    words = _count_words(text, judged)
    if not words.unjudged or words.unjudged < min_words:
        return 0.0
    if "en" in judged and len(text) <= _MAX_DECODED_CHARS:
        for reading in whole_readings(text):
            if is_plain_english(reading):
                words = _count_words(reading, judged)
                break
    return words.unjudged / max(words.all, 1)


def _count_words(text: str, judged: Collection[str]) -> _Words:
    words = _Words()
    for sentence in _sentences(unicodedata.normalize("NFC", text)):
        for other in _OTHER_WORD.findall(" ".join(sentence)):
            words.add(_weight(other), unjudged=True)
        latin = [one for one in sentence if _LATIN_WORD.fullmatch(one)]
        words.add(len(latin), unjudged=_is_unjudged(latin, judged))
    return words


def _sentences(text: str) -> Iterator[list[str]]:
    """Yield the words of each sentence, short ones joined and long ones cut after 16 words."""
    joined: list[str] = []
    for part in _SENTENCE_END.split(text):
        joined += [_EDGES.sub("", token) for token in part.split()]
        if len(joined) >= _MIN_WORDS:
            for start in range(0, len(joined), _MAX_WORDS):
                yield joined[start : start + _MAX_WORDS]
            joined = []
    yield joined


def _weight(word: str) -> float:
    """Return as how many words a word of another script counts; a single letter is a symbol."""
    if _NO_SPACES.match(word):
        return len(word) / _LETTERS_OF_WORD
    return float(len(word) > 1)


def _is_unjudged(words: Sequence[str], judged: Collection[str]) -> bool:
    """Return whether a sentence in Latin letters is in a language that is not judged."""
    plain = [one for one in words if one[0].islower()]
    if 4 * len(plain) < len(words) and len(words) >= _MIN_TITLE_WORDS:
        plain = [one.lower() for one in words]
    # The first word has its capital letter from its place.
    counted = plain if words[:1] == plain[:1] else [*words[:1], *plain]
    distinct = max(_MIN_PLAIN_WORDS, len(plain) / 4)
    if len(counted) < _MIN_WORDS or len(set(plain)) < distinct:
        return False
    if _ENGLISH_SHARE * sum(one.lower() in _ENGLISH_WORDS for one in words) >= len(words):
        return False
    language = _identify(" ".join(counted))
    unknown = sum(not is_word(one) for one in plain) / len(plain)
    if language in _WELL_KNOWN:
        return language not in judged and unknown >= _MIN_UNKNOWN
    # English of its own kind, such as that of short messages, and texts in no language.
    is_rare = language not in judged and language not in _IN_DOUBT
    return is_rare and len(counted) >= _MIN_WORDS_RARE and unknown >= _MIN_UNKNOWN_RARE


def _identify(sentence: str) -> str:
    """Return the ISO 639-1 code of a sentence's language, ``un`` if there is none."""
    _, _, found = pycld2.detect(sentence, isPlainText=True, bestEffort=True)
    code: str = found[0][1]
    return code
