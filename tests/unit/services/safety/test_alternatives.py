"""Alternatives of tokens that would make a finding."""

import re

from bem_fleet.guard.findings import Span
from bem_fleet.services.safety.alternatives import remove_findings
from bem_fleet.services.safety.token_redaction import TokenAligner, redact_entries
from bemfleet.router.v1 import router_pb2 as pb

from tests.unit.services.safety.test_token_redaction import logprobs

EMAIL = re.compile(r"\w+@\w+\.com")


async def find_emails(text: str) -> list[Span]:
    """Return the addresses of a text."""
    return [Span(*match.span(), "E", 1, "pii") for match in EMAIL.finditer(text)]


async def remaining(text: str, entries: list[pb.TokenLogprob]) -> list[list[str]]:
    """Return the alternatives that are left."""
    response = pb.CompleteResponse(text=text, logprobs=entries)
    kept = redact_entries(response.logprobs, TokenAligner(), text, len(text), [])
    await remove_findings(kept, text, find_emails)
    return [[top.token.decode() for top in one.top] for one in response.logprobs]


async def test_alternative_that_completes_an_address_is_removed() -> None:
    """``sales example.com`` has ``@`` in the place of the blank."""
    entries = [
        *logprobs("sales", top=["info"]),
        *logprobs(" ", top=[" ", "@", "."]),
        *logprobs("example.com", top=["example.com"]),
    ]

    assert await remaining("sales example.com", entries) == [["info"], [" ", "."], ["example.com"]]


async def test_alternatives_of_one_rank_are_judged_as_one_text() -> None:
    """No single one completes an address, and all together spell it."""
    entries = [
        *logprobs("ab", top=["x", "sales"]),
        *logprobs("cd", top=["y", "@example"]),
        *logprobs("ef", top=["z", ".com"]),
    ]

    assert await remaining("abcdef", entries) == [["x"], ["y"], ["z"]]


async def test_what_exceeds_the_work_for_a_message_is_removed() -> None:
    """Alternatives that are not judged do not leave."""
    word = "a@" * 60 + " "
    entries = logprobs(*[word] * 200, top=["k" * 30, "j"])

    assert not any((await remaining(word * 200, entries))[-1])


async def test_withheld_text_leaves_no_alternative() -> None:
    """A policy that withholds instead of redacting says no place."""

    async def withhold(_text: str) -> None:
        return None

    response = pb.CompleteResponse(text="a@b", logprobs=logprobs("a@b", top=["c@d", "e@f"]))
    kept = redact_entries(response.logprobs, TokenAligner(), "a@b", 3, [])
    await remove_findings(kept, "a@b", withhold)

    assert not response.logprobs[0].top
