"""Field access on raw messages: model name, answer text and end of text of any gRPC method.

The descriptor comes from the mission's reflection, so the gateway needs no generated code of the
mission. ``MethodFields`` finds the fields once, by the options of ``bemfleet.common.v1``.
"""

from dataclasses import dataclass

from fleet.text_roles import (
    JUDGED_ROLES,
    answers_with_text,
    ending_fields,
    has_judged_text,
    model_field_path,
    texts,
    truncating_values,
)
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

AFFINITY_CHARS = 256
"""Characters at the beginning of a request by which replicas are chosen: some prefix blocks."""


@dataclass(frozen=True)
class ResponseFacts:
    """What one response of a method says about the answer.

    Attributes:
        completes: Whether the answer is complete with it.
        has_text: Whether it carries text, more than white space.
        truncates: Whether it says that the answer was cut off at a limit.
    """

    completes: bool
    has_text: bool
    truncates: bool


class MethodFields:
    """Messages of one method, as canary routing reads and rewrites them.

    Attributes:
        method: Descriptor of the method.
        path: Call path, ``/package.Service/Method``.
        streams_responses: Whether the response is a stream.
        answers_with_text: Whether an answer without text is an empty one.
        names_model: Whether the request has a field that names the model.
        request: Message class of the request.
        response: Message class of the response.
    """

    def __init__(self, method: MethodDescriptor) -> None:
        self.method = method
        self.path = f"/{method.containing_service.full_name}/{method.name}"
        self.streams_responses: bool = method.server_streaming
        self.answers_with_text = answers_with_text(method.output_type)
        self.request: type[Message] = message_factory.GetMessageClass(method.input_type)
        self.response: type[Message] = message_factory.GetMessageClass(method.output_type)
        model_path = model_field_path(method.input_type)
        self.names_model = bool(model_path)
        *self._model_parents, self._model_field = model_path.split(".")
        self._ending_fields = ending_fields(method.output_type)
        self._has_text = has_judged_text(method.output_type)
        self._truncating = truncating_values(method.output_type)

    def model_of(self, request: bytes) -> str:
        """Return the model that a serialised request names; empty if it names none.

        Raises:
            google.protobuf.message.DecodeError: The request is malformed.
        """
        model: str = getattr(self._model_owner(self.request.FromString(request)), self._model_field)
        return model

    def with_model(self, request: bytes, model: str) -> bytes:
        """Return the serialised request with another model; unknown fields are kept."""
        message = self.request.FromString(request)
        setattr(self._model_owner(message), self._model_field, model)
        return message.SerializeToString()

    def affinity(self, request: bytes) -> str:
        """Return what requests with a common beginning share: the model and the first characters.

        Raises:
            google.protobuf.message.DecodeError: The request is malformed.
        """
        message = self.request.FromString(request)
        model = getattr(self._model_owner(message), self._model_field) if self.names_model else ""
        begin = ""
        for _, _, text in texts(message):
            begin += text[: AFFINITY_CHARS - len(begin)]
            if len(begin) == AFFINITY_CHARS:
                break
        return f"{model}\n{begin}"

    def speaks(self, response: bytes) -> bool:
        """Return whether a client that has read this response has begun to read the answer.

        From here on another track must not take over. A unary response speaks, and so does each
        response of a type without text; else the first with text, or the one that ends the text.
        """
        if not self.streams_responses or not self._has_text:
            return True
        message = self.response.FromString(response)
        return self._ends(message) or any(
            text and role in JUDGED_ROLES for _, role, text in texts(message)
        )

    @property
    def marks_end(self) -> bool:
        """Whether a complete stream has a response that ends the text."""
        return self.streams_responses and bool(self._ending_fields)

    def read(self, response: bytes) -> ResponseFacts:
        """Return what a response says about the answer.

        A stream without an ``ends_text`` field completes only at its end.
        """
        completes = not self.streams_responses
        if not (self.answers_with_text or self._ending_fields or self._truncating):
            return ResponseFacts(completes, has_text=False, truncates=False)
        message = self.response.FromString(response)
        return ResponseFacts(
            completes or self._ends(message),
            has_text=any(role in JUDGED_ROLES and text.strip() for _, role, text in texts(message)),
            truncates=any(getattr(message, name) in cut for name, cut in self._truncating),
        )

    def _ends(self, message: Message) -> bool:
        return any(getattr(message, name) for name in self._ending_fields)

    def _model_owner(self, message: Message) -> Message:
        for name in self._model_parents:
            message = getattr(message, name)
        return message
