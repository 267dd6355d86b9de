"""Tests of the conventions of replies."""

from bem_fleet.data.family_conventions import CLASSES, FORMATS, LABELS, MESSAGES, SIGNATURES
from bem_fleet.data.family_domains import DOMAINS

SLOTS = {"a": "x y", "b": "2", "c": "Z"}


def test_every_domain_has_a_convention_of_each_kind() -> None:
    """Formats, signatures and labels are as many as the domains of their split."""
    for split, domains in DOMAINS.items():
        assert len(FORMATS[split]) == len(SIGNATURES[split]) == len(LABELS[split]) == len(domains)


def test_conventions_are_distinct() -> None:
    """No two conventions of a kind write the same slots alike, and no label has two meanings."""
    for table in (FORMATS, SIGNATURES):
        written = [render("tool", SLOTS) for own in table.values() for render in own]
        assert len(set(written)) == len(written)
    labels = [label for own in LABELS.values() for one in own for label in one]
    assert len(set(labels)) == len(labels)


def test_examples_read_as_meant() -> None:
    """A format, a reversed signature and a path, written out."""
    assert FORMATS["train"][0]("t", SLOTS) == '{"a": "x y", "b": "2", "c": "Z"}'
    assert SIGNATURES["train"][2]("t", SLOTS) == 't(c="Z", b="2", a="x y")'
    assert FORMATS["dev"][1]("t", SLOTS) == "/c/Z/b/2/a/x y"
    assert FORMATS["held_out"][0]("t", SLOTS) == "@a{x y} @b{2} @c{Z}"


def test_messages_differ_between_stream_and_probes() -> None:
    """Each class has two messages of each part, and no message belongs to two classes."""
    messages = [one for name in CLASSES for one in MESSAGES[name]]

    assert all(len(MESSAGES[name]) == 4 for name in CLASSES)
    assert len(set(messages)) == 16
