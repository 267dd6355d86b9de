"""Texts of a request that its answer continues, so that both are judged as one text.

A client that asks for one token after another would otherwise read in parts what the policy
redacts as a whole. The option ``continued`` of ``bemfleet.common.v1`` marks the fields; in the Open
Inference Protocol, which has no options of ours, the contents of input tensors are continued.
"""

from bem_fleet.guard.scoring.secret_patterns import recognisable_end, unfinished_block_start
from bem_fleet.services.safety.text_slots import TextSlot, text_slots
from bemfleet.common.v1 import text_pb2
from fleet.errors import InvalidArgumentError
from fleet.text_roles import field_options
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

MAX_CONTINUED = 64
"""Texts of a request that answers may continue. An answer that cannot be assigned to one of them is
judged after each: without a limit, a request of 17 KB with a thousand texts took 12 s."""
_ALWAYS = "always"
_FOREIGN = frozenset(
    {
        "inference.InferTensorContents.bytes_contents",
        "inference.ModelInferRequest.raw_input_contents",
    }
)


def continued_texts(request: Message) -> tuple[str, ...]:
    """Return the texts of a request that its answers continue, in order; one for each answer.

    Raises:
        InvalidArgumentError: There are more than ``MAX_CONTINUED``.
    """
    last: tuple[str, ...] = ()
    batch: list[str] = []
    for slot in text_slots(request):
        if slot.field.full_name in _FOREIGN:
            batch.append(slot.text)
            if len(batch) > MAX_CONTINUED:
                raise InvalidArgumentError(
                    slot.path,
                    f"more than {MAX_CONTINUED} texts in the input tensors of one request; the "
                    f"limit is {MAX_CONTINUED}; divide them among several requests",
                )
        elif condition := _condition(slot.field):
            last = (slot.text,) if _applies(condition, slot) else ()
    return (*batch, *last)


_CONDITIONS: dict[str, str] = {}


def _condition(field: FieldDescriptor) -> str:
    condition = _CONDITIONS.get(field.full_name)
    if condition is None:
        condition = field_options(field).Extensions[text_pb2.continued]
        _CONDITIONS[field.full_name] = condition
    return condition


def _applies(condition: str, slot: TextSlot) -> bool:
    if condition == _ALWAYS:
        return True
    name, _, value = condition.partition("=")
    return str(getattr(slot.owner, name, None)) == value


def end_of(text: str, chars: int) -> str:
    """Return the end of a text, long enough to recognise what may go on behind it.

    The end of a finding that is longer, such as a private key without its last line, is preceded
    by the beginning of the finding.

    Args:
        text: Text of the request.
        chars: Characters of the end.
    """
    tail = text[-chars:] if chars else ""
    cut = len(text) - len(tail)
    begin = unfinished_block_start(text)
    if begin is None:
        begin = next((at + 1 for at in range(cut - 1, -1, -1) if text[at].isspace()), 0)
        if any(one.isspace() for one in tail):
            begin = cut
    if begin >= cut:
        return tail
    return text[begin : recognisable_end(text, begin, cut)] + tail
