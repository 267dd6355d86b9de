"""Sticky traffic bucketing: maps sessions to canary or stable by a keyed hash.

A session hashes to a point in [0, 1). The canary answers the sessions below its weight, so that a
session stays on its track and a larger weight keeps all sessions of a smaller one. With weight 10,
a session at 0.07 is on the canary and stays there when the weight becomes 25.
"""

from hashlib import blake2b

_HASH_RANGE = 2.0**64


def bucket_of(session: str, salt: str) -> float:
    """Return the point of a session in [0, 1): uniform over sessions, the same at every call.

    Args:
        session: Session id.
        salt: Canary id; every canary gets other sessions first.
    """
    digest = blake2b(session.encode(errors="surrogatepass"), key=salt.encode()[:64], digest_size=8)
    return int.from_bytes(digest.digest(), "big") / _HASH_RANGE


def is_on_canary(session: str, salt: str, percent: int) -> bool:
    """Return whether the canary answers this session at a weight of ``percent``."""
    return bucket_of(session, salt) * 100 < percent


def is_mirrored(request_id: str, salt: str, percent: int) -> bool:
    """Return whether a request is sent to both tracks; drawn anew for each request."""
    return bucket_of(request_id, f"mirror {salt}") * 100 < percent
