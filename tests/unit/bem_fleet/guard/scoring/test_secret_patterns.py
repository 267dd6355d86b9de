"""Secret patterns: whole secrets, unfinished ones, and what only looks like one."""

import random
import string

import pytest
from bem_fleet.guard.scoring.prefilter import may_contain_sensitive_data
from bem_fleet.guard.scoring.secret_patterns import (
    find_secrets,
    is_placeholder,
    recognisable_end,
    unfinished_block_start,
)

LETTERS = string.ascii_letters + string.digits
LINE = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
PREFIXES = (
    *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-", "glrt-", "AIza"),
    *(
        "npm_",
        "hf_",
        "sk-proj-",
        "sk-ant-api03-",
        "sk_live_",
        "rk_live_",
        "whsec_",
        "xoxb-",
        "xapp-",
    ),
    *("pypi-", "dckr_pat_", "hvs.", "gsk_", "r8_", "GOCSPX-", "glsa_", "lin_api_", "ya29."),
)


def random_letters(count: int, seed: int) -> str:
    """Return letters and digits, of both kinds and cases."""
    chosen = random.Random(seed)
    return "aZ7" + "".join(chosen.choice(LETTERS) for _ in range(count - 3))


def covered(text: str, *, ended: bool = True) -> str:
    """Return the text with each character of a secret replaced by a dot."""
    left = list(text)
    for start, end, _ in find_secrets(text, ended=ended):
        left[start:end] = "." * (end - start)
    return "".join(left)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("length", [40, 57, 120])
def test_token_is_covered_to_its_last_character(prefix: str, length: int) -> None:
    """Issuers lengthen their tokens, so the whole run belongs to it, in any surroundings."""
    token = prefix + random_letters(length, len(prefix) + length)
    for form in ("use {} now", "'{}'", "KEY={}\n", "({}).", "{}", '"token":"{}",'):
        text = form.format(token)

        assert may_contain_sensitive_data(text)
        assert token[-8:] not in covered(text)
        assert set(covered(text).replace(form.format("\0").partition("\0")[0], "")[:8]) == {"."}


def test_json_web_token_is_covered_with_its_signature() -> None:
    """Three parts, or four and more of an encrypted one."""
    parts = ["eyJhbGciOiJIUzI1NiJ9", random_letters(60, 1), random_letters(43, 2) + "_-x"]
    for count in (2, 3):
        token = ".".join(parts[:count])

        assert covered(f"Cookie: {token}; x") == f"Cookie: {'.' * len(token)}; x"
    encrypted = ".".join([*parts, *parts[1:]])
    assert covered(f"a {encrypted}, b") == f"a {'.' * len(encrypted)}, b"


@pytest.mark.parametrize("kind", ["RSA ", "EC ", "OPENSSH ", "DSA ", "ENCRYPTED ", ""])
@pytest.mark.parametrize("end", ["\n", "\\n", "\r\n", '"\n    "'])
def test_key_block_is_covered_to_its_end_line(kind: str, end: str) -> None:
    """Line breaks may be escapes or parts of a program."""
    begin, last = f"-----BEGIN {kind}PRIVATE KEY-----", f"-----END {kind}PRIVATE KEY-----"
    block = end.join([begin, *[LINE] * 5, "aB3=", last])

    assert covered(f"Here: {block} and more") == f"Here: {'.' * len(block)} and more"


def test_other_key_files_are_covered() -> None:
    """PGP blocks with headers and PuTTY's own format."""
    pgp = "\n".join(
        (
            "-----BEGIN PGP PRIVATE KEY BLOCK-----",
            *("Version: GnuPG v2", "", LINE, LINE, "=aB3d"),
            "-----END PGP PRIVATE KEY BLOCK-----",
        )
    )
    putty = "\n".join(
        (
            *("PuTTY-User-Key-File-3: ssh-ed25519", "Encryption: none", "Comment: mine"),
            *("Public-Lines: 2", LINE, LINE, "Private-Lines: 1", LINE),
            "Private-MAC: 0a1b2c3d4e5f",
        )
    )
    for block in (pgp, putty):
        assert covered(f"{block}\nThen more.") == f"{'.' * len(block)}\nThen more."


@pytest.mark.parametrize("lines", [0, 1, 40])
def test_unfinished_block_is_covered_to_the_end_of_the_text(lines: int) -> None:
    """The end of a text, or of a stream's text so far, may lie within a key."""
    block = "\n".join(["-----BEGIN RSA PRIVATE KEY-----", *[LINE] * lines, "MIIE"])

    assert covered(f"Key: {block}") == f"Key: {'.' * len(block)}"
    assert unfinished_block_start(f"Key: {block}") == len("Key: ")
    assert unfinished_block_start(f"{block}\n-----END RSA PRIVATE KEY-----\n") is None


def test_prose_behind_an_unfinished_block_stays() -> None:
    """The block ends where its lines end, and a quoted first line is no block."""
    block = f"-----BEGIN PRIVATE KEY-----\n{LINE}\n{LINE}"
    mention = "A file that starts with -----BEGIN RSA PRIVATE KEY----- holds a key and no prose."

    assert covered(f"{block}\nThat was the key, as you see.").endswith(
        "\nThat was the key, as you see."
    )
    assert covered(mention) == mention


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("aws_secret_access_key = {}", random_letters(40, 3)),
        ("aws keys:\n{}", random_letters(38, 4) + "/+"),
        ("password = '{}'", "tulip-Garden"),
        ('"db_password": "{}",', "four small words here"),
        ("ADMIN_PWD={}\n", "tr4velling"),
        ("password: {}\n", "Winter#2031"),
        ("postgres://app:{}@db.internal:5432/x", "Pq8rT2"),
        ("redis://:{}@cache:6379", "zzTop77x"),
        ("Server=a;User Id=b;Password={};Encrypt=yes", "Kd72-lmn"),
        ("AccountName=x;AccountKey={};EndpointSuffix=y", random_letters(86, 5) + "=="),
        ("Authorization: Bearer {}", random_letters(30, 6)),
        ("client_secret: '{}'", random_letters(24, 7)),
        ("The password is {}, as agreed", "moon42light"),
        ("curl -H 'Authorization: Basic {}'", "dXNlcjpwYXNzdzByZA=="),
    ],
)
def test_value_that_its_place_makes_a_secret_is_covered(text: str, secret: str) -> None:
    """The whole value, and nothing of what surrounds it."""
    form = text.format(secret)

    assert may_contain_sensitive_data(form)
    assert covered(form) == text.format("." * len(secret))


@pytest.mark.parametrize(
    "text",
    [
        "Set api_key = 'your-api-key' first.",
        "export TOKEN=<paste it here>",
        'password = os.getenv("DB_PASSWORD2")',
        "password = '${PASSWORD_1}'",
        "secret: {{ vault_secret_1 }}",
        "api_key=settings.API_KEY2",
        "password: str = Field(min_length=8)",
        "The password must have 8 characters and 1 digit.",
        "mysql://user:password@localhost/shop",
        "sk-your-own-key-goes-here-123",
        "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "from huggingface_hub import hf_hub_download",
        "max_tokens: 4096, token_count = 12",
        "compass = 'north-west'",
        "The key to it was patience.",
        "-----BEGIN PUBLIC KEY-----\n" + LINE + "\n-----END PUBLIC KEY-----",
        "commit 3f5a7c9e1b2d4f6a8c0e1b2d4f6a8c0e1b2d4f6a",
    ],
)
def test_placeholders_references_and_prose_are_no_secrets(text: str) -> None:
    """Documentation and code name secrets without having one."""
    assert covered(text) == text


@pytest.mark.parametrize("begun", ["ghp_aZ7k", "glpat-x9Qw2", "hf_kJ3n", "password = 'let"])
def test_secret_that_has_begun_is_covered_only_where_the_text_ends(begun: str) -> None:
    """The next call of a client would bring the rest."""
    text = f"It is {begun}"
    hidden = covered(text)

    assert covered(text, ended=False) == text
    assert hidden != text
    assert covered(f"{text} and so on") == f"{text} and so on"


def test_placeholders_are_known_by_words_and_repetition() -> None:
    """Their number of different characters is small, or they say what they are."""
    assert is_placeholder("changeme")
    assert is_placeholder("aaaaaaaa")
    assert is_placeholder("my-secret-key")
    assert not is_placeholder("hunter2")


@pytest.mark.parametrize("width", [16, 17, 42, 64, 76])
@pytest.mark.parametrize("between", ["\n", "\\n", '" +\n  "'])
@pytest.mark.parametrize("headers", ["", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00FF\n\n"])
def test_block_is_found_without_its_middle(width: int, between: str, headers: str) -> None:
    """Whatever follows the beginning of a key block is found as its end, to the last character."""
    line = "".join(random.Random(0).choices(string.ascii_letters, k=width))
    block = f"-----BEGIN RSA PRIVATE KEY-----\n{headers}" + between.join([line] * 40)
    head = block[: recognisable_end(block, 0, len(block) - 200)]

    for at in range(len(block) - 200, len(block) - 100):
        text = head + block[at:]
        assert [(one.start, one.end) for one in find_secrets(text)] == [(0, len(text))], at
