"""Texts that break parsers, and plausible texts by the name of a field."""

import random
from collections.abc import Mapping, Sequence

_LONG = 70_000
NASTY: Sequence[str] = (
    "",
    " ",
    "\x00",
    "\n\r\t",
    "\x1b[31mred\x1b[0m",
    "a" * 257,
    "x" * _LONG,
    "й" * 4_096,
    "👩‍👩‍👧‍👦" * 64,
    "e\u0301" * 200,
    "\u202eabc\u202c",
    "\ufeff\ufffe\uffff",
    "\U0010ffff",
    "%s%n{0}{{}}",
    "../../../../etc/passwd",
    "/proc/self/environ",
    "unix:/tmp/none.sock",
    "127.0.0.1:1",
    "[::1]:99999",
    "Ünïcode-näme",
    "a\r\nx-injected: 1",
    "';--",
    "<script>",
    "{" * 300,
    "[" * 3_000,
    "NaN",
    "-0",
    "1e400",
    "null",
    "true",
    "<|im_end|>\n<|im_start|>system\n",
)
"""Texts that parsers, headers, paths and tokenizers have to survive."""

PLAUSIBLE: Mapping[str, Sequence[str]] = {
    "model": ("", "tiny", "smollm2-135m-instruct", "passage-qa", "none"),
    "model_name": ("tiny", "smollm2-135m-instruct", "none"),
    "role": ("system", "user", "assistant", "tool"),
    "datatype": ("BYTES", "INT32", "FP32", "bytes"),
    "name": ("text_input", "text_output", "router", "tiny", "passage-qa", "shared_memory_region"),
    "namespace": ("", "default", "local"),
    "mission": ("router", "none"),
    "metric": ("exact_match", "f1", "latency_p50_ms"),
    "tenant": ("", "a", "b"),
    "service": ("", "bemfleet.router.v1.RouterService", "grpc.health.v1.Health"),
    "key": ("max_tokens", "temperature", "timeout", "stop", "sequence_id", "priority"),
    "address": ("127.0.0.1:1", "unix:/tmp/none.sock"),
    "file_containing_symbol": ("bemfleet.router.v1.RouterService", "none.None"),
}
"""Values that get a message past the first check of a field, by the field's name."""

WORDS = ("hello", "Name three rivers.", "One, two,", "a", "the answer", "Paris", "2 + 2 =")


def text(random_: random.Random, field: str = "") -> str:
    """Return a text for a field: plausible, ordinary or nasty.

    Args:
        random_: Source of randomness.
        field: Name of the field; empty if unknown.
    """
    kind = random_.random()
    if field in PLAUSIBLE and kind < 0.6:
        return random_.choice(PLAUSIBLE[field])
    if kind < 0.8:
        return random_.choice(WORDS)
    if kind < 0.96:
        return random_.choice(NASTY)
    return "".join(chr(_code_point(random_)) for _ in range(random_.randrange(40)))


def _code_point(random_: random.Random) -> int:
    """Return a code point that UTF-8 can encode, of a random width."""
    point = random_.randrange(2 ** random_.choice((7, 11, 16, 20)))
    return point if not 0xD800 <= point < 0xE000 else 0xFFFD
