"""Secret patterns: keys by their issuer's prefix, key blocks, connection strings, assignments.

Each pattern covers the whole secret, to its last character. Lengths are lower bounds, because
issuers lengthen their tokens. A value that stands for a secret in documentation or code, such as
``sk-your-key-here`` or ``os.environ["SECRET_KEY"]``, is a placeholder and not reported.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

# Of a finding that is longer than the context, such as a private key, this much of its beginning
# is evaluated with the text at its end, so that it is still recognised there.
MIN_HEAD_CHARS, MAX_HEAD_CHARS = 80, 512

_T = r"[A-Za-z0-9_-]"
_BEFORE = r"(?<![A-Za-z0-9_])"

# Label, prefix, and what follows the prefix in a whole token.
_PREFIXED = (
    ("GITHUB_TOKEN", r"gh[pousr]_", r"[A-Za-z0-9_]{16,}"),
    ("GITHUB_TOKEN", r"github_pat_", r"[A-Za-z0-9_]{20,}"),
    ("GITLAB_TOKEN", r"gl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas|rtr|ffct)-", rf"{_T}{{16,}}"),
    ("GITLAB_TOKEN", r"GR1348941", rf"{_T}{{16,}}"),
    (
        "AWS_ACCESS_KEY",
        r"(?:A3T[A-Z0-9]|ABIA|ACCA|AGPA|AIDA|AIPA|AKIA|ANPA|ANVA|AROA|ASIA)",
        r"[0-9A-Z]{16,}",
    ),
    ("GOOGLE_API_KEY", r"AIza", rf"{_T}{{30,}}"),
    ("GOOGLE_OAUTH_TOKEN", r"(?:ya29\.|1//0)", r"[A-Za-z0-9_.-]{20,}"),
    ("GOOGLE_OAUTH_TOKEN", r"GOCSPX-", rf"{_T}{{20,}}"),
    ("NPM_TOKEN", r"npm_", r"[A-Za-z0-9]{20,}"),
    ("HUGGING_FACE_TOKEN", r"(?:hf_|api_org_)", r"[A-Za-z0-9]{20,}"),
    ("PYPI_TOKEN", r"pypi-", rf"{_T}{{30,}}"),
    ("OPENAI_TOKEN", r"sk-(?:proj-|svcacct-|admin-|or-v1-|ant-(?:[a-z0-9]+-)?)?", rf"{_T}{{20,}}"),
    ("SLACK_TOKEN", r"(?:xox[a-z](?:\.xox[a-z])?|xapp)-", r"[A-Za-z0-9-]{10,}"),
    ("STRIPE_KEY", r"(?:[sr]k_(?:live|test)|whsec)_", r"[A-Za-z0-9]{10,}"),
    ("SENDGRID_KEY", r"SG\.", r"[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    ("TWILIO_KEY", r"SK(?=[0-9a-f])", r"[0-9a-f]{32,}"),
    ("MAILGUN_KEY", r"key-", r"[0-9a-f]{32,}"),
    ("DIGITALOCEAN_TOKEN", r"do[opr]_v1_", r"[0-9a-f]{40,}"),
    ("DATABRICKS_TOKEN", r"dapi", r"[0-9a-f]{32,}(?:-\d+)?"),
    ("SHOPIFY_TOKEN", r"shp(?:at|ca|pa|ss)_", r"[0-9a-fA-F]{32,}"),
    ("DOCKER_TOKEN", r"dckr_(?:pat|oat)_", rf"{_T}{{20,}}"),
    ("VAULT_TOKEN", r"hv[sbr]\.", rf"{_T}{{20,}}"),
    ("GRAFANA_TOKEN", r"glsa_", r"[A-Za-z0-9_]{32,}"),
    ("NEW_RELIC_KEY", r"NRAK-", r"[A-Z0-9]{20,}"),
    ("POSTMAN_KEY", r"PMAK-", r"[0-9a-f-]{40,}"),
    ("GROQ_KEY", r"gsk_", r"[A-Za-z0-9]{30,}"),
    ("REPLICATE_TOKEN", r"r8_", r"[A-Za-z0-9]{30,}"),
    ("LINEAR_KEY", r"lin_(?:api|oauth)_", r"[A-Za-z0-9]{30,}"),
    ("AGE_SECRET_KEY", r"AGE-SECRET-KEY-1", r"[0-9A-Z]{50,}"),
    ("JSON_WEB_TOKEN", r"eyJ", rf"{_T}{{8,}}\.[A-Za-z0-9_=-]+(?:\.[A-Za-z0-9_+/=-]*)*"),
    ("SLACK_WEBHOOK", r"https://hooks\.slack\.com/(?:services|workflows)/", r"[A-Za-z0-9/_-]{16,}"),
    ("DISCORD_WEBHOOK", r"https://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/", r"\d+/[\w-]{20,}"),
)
_WHOLE = tuple((label, re.compile(_BEFORE + prefix + rest)) for label, prefix, rest in _PREFIXED)
# The beginning of a token at the end of a text: what follows comes with the next call.
_BEGUN = tuple(
    (label, re.compile(rf"{_BEFORE}{prefix}(?=[A-Za-z_-]*[0-9A-Z]){_T}{{4,}}[.]?{_T}*\Z"))
    for label, prefix, _ in _PREFIXED
)
# With dashes, their tokens can be words: names of classes, packages and actions.
_MAY_BE_WORDS = frozenset(("OPENAI_TOKEN", "PYPI_TOKEN", "SLACK_TOKEN", "GOOGLE_OAUTH_TOKEN"))
# Issuers of access keys hand out the secret beside them: forty characters without a prefix.
_AWS_NEAR = re.compile(r"aws|secret|" + _PREFIXED[4][1] + r"[0-9A-Z]{16}", re.IGNORECASE)
_AWS_SECRET = re.compile(r"(?<![A-Za-z0-9/+])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])=?")
_AWS_NEAR_CHARS = 200

_BLOCK_BEGIN = re.compile(
    r"-{4,5} ?BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)? ?-{4,5}"
    r"|PuTTY-User-Key-File-[23]:[^\n\\]*"
)
_BLOCK_END = re.compile(
    r"-{4,5} ?END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)? ?-{4,5}|Private-MAC: *[0-9a-f]*"
)
# Between the parts of a block: blanks, line breaks also as escapes, quotes and concatenation.
_GAP = r"(?:[\s'\"+,>|#*]|\\[nrt])*"
_BLOCK_HEADER = re.compile(rf"{_GAP}(?!Private-MAC)[A-Z][A-Za-z-]{{1,24}}: [^\n\\]*(?=\n|\\n|\Z)")
_LINE_CHARS = 16
# The "n" of an escaped line break belongs to no line.
_LINE = re.compile(rf"(?<!\\)[A-Za-z0-9+/=]{{{_LINE_CHARS}}}")
_BLOCK_CHUNK = re.compile(rf"{_GAP}[A-Za-z0-9+/=]{{{_LINE_CHARS},}}")
_BLOCK_LAST = re.compile(rf"{_GAP}(?:[A-Za-z0-9+/]*=+[A-Za-z0-9+/]{{0,4}}|[A-Za-z0-9+/=]*\Z)")

_BASIC_AUTH = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@'\"<>]{0,64}:(?P<value>[^\s@'\"<>/]{1,128})@", re.IGNORECASE
)
_HEADER = re.compile(
    r"\b(?:Bearer|Basic|Token|ApiKey)[ \t]+(?P<value>[A-Za-z0-9._~+/-]{16,}=*)", re.IGNORECASE
)
_KEY_VALUE_STRING = re.compile(
    r"(?:\b|(?<=;))(?:AccountKey|SharedAccessKey|SharedSecretValue|Password|Pwd)[ ]?=[ ]?"
    r"(?P<value>[^;\s'\"]{4,})",
    re.IGNORECASE,
)
_LOGIN_WORD = r"(?:pass(?:word|wd|phrase|code)|(?<![A-Za-z])pass|pwd|passwort|kennwort)"
_KEY_WORD = (
    r"(?:secret|credentials?|api[_-]?key|(?:access|auth|account|private|encryption|signing|master|"
    r"service|client|session|bearer|refresh)[_-]?(?:key|token|secret)|token)"
)
_NAME_END = r"(?:[_-]?\d)?(?:_?(?:key|value|hash|access_key))?[\"'\]]{0,2}"
_ASSIGN = r"\s{0,4}(?:=>|:=|={1,3}|:)\s{0,4}"
_QUOTED_PASSWORD = re.compile(
    rf"{_LOGIN_WORD}{_NAME_END}{_ASSIGN}[rbf@]?(['\"`])"
    r"(?P<value>(?:(?!\1)[^\n\\]|\\.){4,128})(?:\1|(?=\n))",
    re.IGNORECASE,
)
_QUOTED_SECRET = re.compile(
    rf"{_KEY_WORD}{_NAME_END}{_ASSIGN}[rbf@]?(['\"`])(?P<value>[^\s'\"`]{{8,256}})\1",
    re.IGNORECASE,
)
_BEGUN_VALUE = re.compile(
    rf"(?:{_LOGIN_WORD}|{_KEY_WORD}){_NAME_END}{_ASSIGN}[rbf@]?(['\"`])"
    r"([^\s'\"`]{1,256})\Z",
    re.IGNORECASE,
)
_BARE_VALUE = re.compile(
    rf"(?:{_LOGIN_WORD}|{_KEY_WORD}){_NAME_END}{_ASSIGN}"
    r"(?P<value>[^\s'\"`,;(){}\[\]<>$]{6,256})",
    re.IGNORECASE,
)
_SPOKEN_VALUE = re.compile(
    rf"\b(?:{_LOGIN_WORD}|{_KEY_WORD}|pin)\b[^.\n=:]{{0,24}}?\b(?:is|was|to)\b:?\s+"
    r"(?:['\"`](?P<value>[^\s'\"`]{4,128})['\"`]"
    r"|(?P<other>[^\s'\"`,;(){}\[\]<>]{5,127}[^\s'\"`,;(){}\[\]<>.!?:]))",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"your|example|sample|placeholder|change[_-]?me|changeit|replace|redacted|dummy|fake|insert|"
    r"goes[_-]?here|todo|xxxx|\*\*\*|\.\.\.|…|<|>|\$\{|\$\(|\{\{|%[sd(]|environ|getenv|process\.env|"
    r"vault:|secretsmanager|-{5}|#{4}",
    re.IGNORECASE,
)
# Tokens with an issuer's prefix may contain any letters, so fewer words stand for one.
_TOKEN_PLACEHOLDER = re.compile(
    r"your|x{6,}|\*{3}|\.{3}|placeholder|redacted|change[_-]?me|goes[_-]?here", re.IGNORECASE
)
_COMMON_VALUE = re.compile(
    r"(?:my|the|a|an|some|new|old|db|user|test|super|top|this|app|no|not)?[ _-]?(?:is)?[ _-]?"
    r"(?:[ _-]?(?:pass(?:word|wd|phrase)?|pwd|secret|token|key|api[_-]?key|credentials?|"
    r"string|text|value|none|null|true|false|required|optional|invalid|incorrect|wrong|missing|"
    r"hidden|empty|plain|"
    r"user|username|name|email|field|input|type|basic|bearer|default|test|foo|bar|baz)){1,3}"
    r"[ _-]?(?:here|value|string|text|hash|field)?[.:!?]?",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"[A-Za-z_][A-Za-z_0-9]*(?:(?:\.|->|::)[A-Za-z_][A-Za-z_0-9]*)+[.,;]?")


class SecretMatch(NamedTuple):
    """Character range of a secret.

    Attributes:
        start: Offset of the first character.
        end: Offset behind the last character.
        label: Kind of secret, such as ``GITHUB_TOKEN``.
    """

    start: int
    end: int
    label: str


def find_secrets(text: str, *, ended: bool = True) -> Iterator[SecretMatch]:
    """Yield the secrets of a text; ranges may overlap.

    Args:
        text: Text of any length; the work is linear in it.
        ended: Whether no text follows. If so, a secret that has only begun is reported too.
    """
    yield from _find_blocks(text)
    yield from _find_tokens(text)
    yield from _find_assigned(text)
    if ended:
        yield from _find_begun(text)


def is_placeholder(value: str) -> bool:
    """Return whether a value stands for a secret and is none."""
    return (
        _PLACEHOLDER.search(value) is not None
        or _COMMON_VALUE.fullmatch(value) is not None
        or len(set(value)) < 3
    )


def unfinished_block_start(text: str) -> int | None:
    """Return the offset of a private key block that has no end yet; None if there is none."""
    begins = list(_BLOCK_BEGIN.finditer(text))
    if not begins or _BLOCK_END.search(text, begins[-1].end()):
        return None
    return begins[-1].start()


def recognisable_end(text: str, start: int, limit: int) -> int:
    """Return where a finding may be cut so that its beginning is recognised without its middle.

    A line of a key block counts from sixteen characters on. The beginning therefore ends inside a
    line of at least that length: whatever part of another line is put behind it belongs to it.

    Args:
        text: Text that has the finding.
        start: Offset of the finding.
        limit: Offset behind which the text is kept anyway; the result is at most that.
    """
    last = min(start + MAX_HEAD_CHARS, limit)
    begin = _BLOCK_BEGIN.match(text, start, last)
    if begin is None:
        return min(start + MIN_HEAD_CHARS, limit)
    line = _LINE.search(text, max(begin.end(), start + MIN_HEAD_CHARS - _LINE_CHARS), last)
    return line.end() if line else last


def _find_blocks(text: str) -> Iterator[SecretMatch]:
    """Yield private keys from their first line to their last, or to where their lines end."""
    position = 0
    while begin := _BLOCK_BEGIN.search(text, position):
        position = end = begin.end()
        while header := _BLOCK_HEADER.match(text, end):
            end = header.end()
        body = end
        while chunk := _BLOCK_CHUNK.match(text, end):
            end = chunk.end()
            while header := _BLOCK_HEADER.match(text, end):
                end = header.end()
        if last := _BLOCK_LAST.match(text, end):
            end = last.end()
        gap = re.compile(_GAP).match(text, end)
        closing = _BLOCK_END.match(text, gap.end() if gap else end)
        if closing:
            end = closing.end()
        # A first line alone, as an explanation quotes it, is no key.
        if end > body and (closing or text[body:end].strip()):
            yield SecretMatch(begin.start(), end, "PRIVATE_KEY")
            position = end


def _find_tokens(text: str) -> Iterator[SecretMatch]:
    for label, pattern in _WHOLE:
        for match in pattern.finditer(text):
            if _is_token(match[0], may_be_words=label in _MAY_BE_WORDS):
                yield SecretMatch(*match.span(), label)
    for match in _AWS_SECRET.finditer(text):
        near = text[max(0, match.start() - _AWS_NEAR_CHARS) : match.start()]
        if _AWS_NEAR.search(near) and _is_token(match[0], may_be_words=True):
            yield SecretMatch(*match.span(), "AWS_SECRET_KEY")


def _is_token(value: str, *, may_be_words: bool) -> bool:
    """Return whether a value that looks like an issuer's token is one and no placeholder."""
    if may_be_words and not any(one.isdigit() or one.isupper() for one in value):
        return False
    return _TOKEN_PLACEHOLDER.search(value) is None and len(set(value)) > 2


def _find_assigned(text: str) -> Iterator[SecretMatch]:
    """Yield values that a connection string, a header or a name says are secret."""
    for label, pattern, chosen in _ASSIGNED:
        for match in pattern.finditer(text):
            place = match.span("value" if match["value"] is not None else "other")
            value = text[slice(*place)]
            if chosen(value) and not is_placeholder(value):
                yield SecretMatch(*place, label)


def _is_any(value: str) -> bool:
    return bool(value)


def _mixes(value: str) -> bool:
    """Return whether a value has letters beside digits, as chosen secrets have and words do not."""
    return any(one.isdigit() for one in value) and any(one.isalpha() for one in value)


def _is_encoded(value: str) -> bool:
    """Return whether a value is no word: it has digits, or capitals behind its first letter."""
    return any(one.isdigit() or one.isupper() for one in value[1:])


def _mixes_literal(value: str) -> bool:
    """Return whether a value without quotes is no reference such as ``settings.API_KEY2``."""
    return _mixes(value) and _REFERENCE.fullmatch(value) is None


# Label, pattern with the group ``value`` (or ``other``), and which values are chosen.
_ASSIGNED = (
    ("PASSWORD", _BASIC_AUTH, _is_any),
    ("AUTHORIZATION", _HEADER, _is_encoded),
    ("PASSWORD", _KEY_VALUE_STRING, _mixes_literal),
    ("PASSWORD", _QUOTED_PASSWORD, _is_any),
    ("SECRET", _QUOTED_SECRET, _mixes),
    ("SECRET", _BARE_VALUE, _mixes_literal),
    ("PASSWORD", _SPOKEN_VALUE, _mixes),
)


def _find_begun(text: str) -> Iterator[SecretMatch]:
    """Yield secrets that have begun at the end of the text."""
    tail_start = max(0, len(text) - 600)
    tail = text[tail_start:]
    for label, pattern in _BEGUN:
        if (match := pattern.search(tail)) and _is_token(match[0], may_be_words=False):
            yield SecretMatch(tail_start + match.start(), len(text), label)
    if (match := _BEGUN_VALUE.search(tail)) and not is_placeholder(match[2]):
        yield SecretMatch(tail_start + match.start(2), len(text), "PASSWORD")
