"""Tests of the domains of the instruction families."""

from itertools import pairwise

from bem_fleet.data.family_domains import DOMAINS


def test_every_phrase_has_every_slot_once() -> None:
    """Both phrases of a domain name its three slots."""
    for domain in [one for own in DOMAINS.values() for one in own]:
        assert len(domain.slots) == 3
        for phrase in domain.phrases:
            assert all(phrase.count(f"{{{name}}}") == 1 for name in domain.slots), domain.name


def test_no_domain_is_in_two_splits() -> None:
    """Names, tools and things are distinct over all splits."""
    domains = [one for own in DOMAINS.values() for one in own]
    for names in ([one.name for one in domains], [one.tool for one in domains]):
        assert all(one != other for one, other in pairwise(sorted(names)))
    assert len({one.thing for one in domains}) == len(domains)
