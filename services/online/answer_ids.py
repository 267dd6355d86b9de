"""Answer ids: they hold version and condition, so that an answer is explained without storing it.

The form ``answer-<32 hexadecimal digits>`` is one that the scrubber of feedback leaves as it is.
The digits are 8 of the version, 16 of the condition (zeros for the base model) and 8 at random.
"""

import re
import secrets

from fleet.errors import InvalidArgumentError

_FORM = re.compile(r"answer-([0-9a-f]{8})([0-9a-f]{16})[0-9a-f]{8}")
_NO_CONDITION = "0" * 16
_RANDOM_BYTES = 4


def answer_id(version: int, condition: str) -> str:
    """Return the id of a new answer.

    Args:
        version: Number of the version that was live.
        condition: Condition that the prompt met, 16 hexadecimal digits; empty for none.
    """
    return f"answer-{version:08x}{condition or _NO_CONDITION}{secrets.token_hex(_RANDOM_BYTES)}"


def parse_answer_id(text: str) -> tuple[int, str]:
    """Return version and condition of an answer; the condition is empty for the base model.

    Raises:
        InvalidArgumentError: The text is no id of an answer.
    """
    found = _FORM.fullmatch(text)
    if not found:
        raise InvalidArgumentError(
            "answer_id", f"{text[:80]!r} is no id of an answer; take the one that Generate returned"
        )
    condition = found[2]
    return int(found[1], 16), "" if condition == _NO_CONDITION else condition
