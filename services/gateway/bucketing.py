"""Which track answers a session: the same one every time, in exactly the asked share."""

from hashlib import blake2b

_FULL = 2.0**64


def share_of(session: str, salt: str) -> float:
    """Return where a session lies in [0, 1), evenly spread and the same for ever.

    Args:
        session: What identifies it.
        salt: The canary: another one asks other sessions first.
    """
    digest = blake2b(session.encode(errors="surrogatepass"), key=salt.encode()[:64], digest_size=8)
    return int.from_bytes(digest.digest(), "big") / _FULL


def is_canary(session: str, salt: str, percent: int) -> bool:
    """Tell whether the canary answers this session; a larger share keeps all of a smaller one."""
    return share_of(session, salt) * 100 < percent


def is_mirrored(request_id: str, salt: str, percent: int) -> bool:
    """Tell whether a request is asked of the other track too; drawn for each request anew."""
    return share_of(request_id, f"mirror {salt}") * 100 < percent
