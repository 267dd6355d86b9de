"""Raw BYTES tensors."""

import pytest
from fleet import bytes_tensors
from hypothesis import given
from hypothesis import strategies as st


@given(elements=st.lists(st.binary(max_size=20), max_size=8))
def test_elements_survive_the_raw_form(elements: list[bytes]) -> None:
    """What is packed is what is unpacked, empty elements included."""
    assert list(bytes_tensors.unpack(bytes_tensors.pack(elements))) == elements


def test_the_length_is_little_endian() -> None:
    """The form is the protocol's, byte for byte."""
    assert bytes_tensors.pack([b"ab", b""]) == b"\x02\0\0\0ab\0\0\0\0"


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"\x01\0\0", "length prefix"),
        (b"\x02\0\0\0a", "element of 2 bytes"),
        (b"\xff\xff\xff\xffa", "element of 4294967295 bytes"),
        (b"\x01\0\0\0ab", "length prefix"),
    ],
)
def test_truncated_contents_are_refused(raw: bytes, problem: str) -> None:
    """A length that is cut off or lies is an error, not a shorter element."""
    with pytest.raises(ValueError, match=problem):
        list(bytes_tensors.unpack(raw))
