"""Digests of texts in assertions: a failed comparison with held-out texts prints none of them.

pytest prints the values of an assertion's parts, arguments of calls among them. So compare first
and assert the result alone.
"""

import hashlib
from collections.abc import Iterable


def text_digest(text: str) -> str:
    """Return the digest of a text, 16 hexadecimal characters, as keys of items are."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def shared_texts(left: Iterable[str], right: Iterable[str]) -> list[str]:
    """Return the digests of the texts that both sides have, rising."""
    return sorted(map(text_digest, {*left} & {*right}))
