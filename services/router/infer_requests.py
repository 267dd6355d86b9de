"""Requests of the Open Inference Protocol: tensors, parameters and requested outputs.

A request is checked as the protocol states it: datatype and shape against the contents, raw against
typed contents, names of tensors. Parameters are the router's own (``max_tokens``, those of
``Sampling``, ``stop``, ``adapter_scale``) and the protocol's reserved ones. A parameter has one
value, so ``adapters`` is a text: ``tone=0.5,domain`` for two adapters of which the second has the
scale 1.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bem.errors import InvalidRequestError
from bemfleet.router.v1 import router_pb2
from fleet import bytes_tensors
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from inference import open_inference_pb2 as pb

INPUT, OUTPUT = "text_input", "text_output"
MAX_BATCH = 64
MAX_MODEL_VERSION_CHARS = 80
_EMPTY_FINAL = ("triton_enable_empty_final_response", "enable_empty_final_response")
_SHARED_MEMORY = "shared_memory_"
_NUMBER, _FLAG, _TEXT = ("int64_param", "uint64_param"), ("bool_param",), ("string_param",)
# The protocol's parameters that mean nothing to a model without state, priorities or HTTP. Standard
# clients send them with every request, so they are accepted with their types checked.
_NEUTRAL: Mapping[str, tuple[str, ...]] = {
    "sequence_id": (*_NUMBER, *_TEXT),
    "sequence_start": _FLAG,
    "sequence_end": _FLAG,
    "priority": _NUMBER,
    "binary_data_output": _FLAG,
}
_NEUTRAL_INPUT = {"binary_data_size": _NUMBER}
_NEUTRAL_OUTPUT = {"binary_data": _FLAG}


def _scalar_fields(message: type[Message], left_out: frozenset[str]) -> frozenset[str]:
    return frozenset(
        field.name
        for field in message.DESCRIPTOR.fields
        if not field.is_repeated
        and field.type not in (FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_STRING)
        and field.name not in left_out
    )


# Log-probabilities have no output tensor, and a prompt has no messages.
SAMPLING = _scalar_fields(router_pb2.Sampling, frozenset({"logprobs"}))
GENERATION = _scalar_fields(router_pb2.GenerateRequest, frozenset({"adapter_from_message"}))


@dataclass(frozen=True)
class InferRequest:
    """A validated request.

    Attributes:
        model: Model that the request names.
        version: Model version that the request names; empty for any.
        request_id: The client's id, which the responses carry.
        texts: Prompts in the order of the input tensor, 1 to ``MAX_BATCH``.
        raw: Whether contents are raw, in the request and therefore in the responses.
        timeout_s: The client's own limit in seconds; infinite without one.
        empty_final: Whether the client wants an empty response after the last piece of a stream.
        template: Request for the router's own service, without its prompt.
    """

    model: str
    version: str
    request_id: str
    texts: tuple[str, ...]
    raw: bool
    timeout_s: float
    empty_final: bool
    template: router_pb2.GenerateRequest

    def generate_request(self, text: str) -> router_pb2.GenerateRequest:
        """Return the router's own request for one text."""
        request = router_pb2.GenerateRequest()
        request.CopyFrom(self.template)
        request.prompt = text
        return request

    def deadline(self, call_deadline: float | None) -> float | None:
        """Return the earlier of the call's deadline and the client's own limit.

        Args:
            call_deadline: Value of ``time.monotonic()``, or None.
        """
        if math.isinf(self.timeout_s):
            return call_deadline
        own = time.monotonic() + self.timeout_s
        return own if call_deadline is None else min(own, call_deadline)


def parse_infer_request(request: pb.ModelInferRequest) -> InferRequest:
    """Validate a request.

    Raises:
        InvalidRequestError: A field violates the protocol or a limit.
    """
    if not request.model_name:
        raise InvalidRequestError("model_name", "is empty; name a model")
    texts = _texts(request)
    for index, output in enumerate(request.outputs):
        _check_output(f"outputs[{index}]", output)
    timeout_s, empty_final = math.inf, False
    template = router_pb2.GenerateRequest(model=request.model_name)
    for name, parameter in request.parameters.items():
        field = f"parameters[{name[:40]!r}]"
        if name == "timeout":
            timeout_s = _timeout_s(field, parameter)
        elif name in _EMPTY_FINAL:
            empty_final = bool(_value(field, parameter, _FLAG))
        elif name in _NEUTRAL:
            _value(field, parameter, _NEUTRAL[name])
        else:
            _set_parameter(field, template, name, parameter)
    return InferRequest(
        model=request.model_name,
        version=request.model_version,
        request_id=request.id,
        texts=texts,
        raw=bool(request.raw_input_contents),
        timeout_s=timeout_s,
        empty_final=empty_final,
        template=template,
    )


def in_callers_terms(err: InvalidRequestError, request: pb.ModelInferRequest) -> Exception:
    """Return the error of the router's own request with the field that the caller set."""
    name = err.field.removeprefix("sampling.").partition("[")[0]
    if name in request.parameters:
        return InvalidRequestError(f"parameters[{name!r}]", err.problem)
    return InvalidRequestError("inputs[0]", err.problem) if name == "prompt" else err


def _texts(request: pb.ModelInferRequest) -> tuple[str, ...]:
    names = [tensor.name for tensor in request.inputs]
    if names != [INPUT]:
        shown = ", ".join(repr(name[:40]) for name in names[:4]) or "none"
        raise InvalidRequestError("inputs", f"are {shown}; the one tensor {INPUT!r} is allowed")
    tensor = request.inputs[0]
    if tensor.datatype != "BYTES":
        raise InvalidRequestError(
            "inputs[0].datatype", f"{tensor.datatype[:20]!r} is not supported; use BYTES"
        )
    _check_parameters("inputs[0].parameters", tensor.parameters, _NEUTRAL_INPUT)
    parts = _elements(request)
    _check_shape(tensor.shape, len(parts))
    texts = []
    for index, part in enumerate(parts):
        try:
            texts.append(part.decode())
        except UnicodeDecodeError as err:
            raise InvalidRequestError(
                "inputs[0]", f"element {index} is not UTF-8: {err.reason}; encode it as UTF-8"
            ) from err
    return tuple(texts)


def _check_shape(shape: Sequence[int], elements: int) -> None:
    if len(shape) != 1 or shape[0] != elements or not 1 <= elements <= MAX_BATCH:
        shown = [*shape[:4], "..."] if len(shape) > 4 else list(shape)
        raise InvalidRequestError(
            "inputs[0].shape",
            f"{shown} does not fit {elements} elements; the shape is [n] with n elements, "
            f"and 1 to {MAX_BATCH} are allowed",
        )


def _elements(request: pb.ModelInferRequest) -> list[bytes]:
    """Return the elements of the input tensor from its raw or its typed contents."""
    contents = request.inputs[0].contents
    others = [field.name for field, _ in contents.ListFields() if field.name != "bytes_contents"]
    if others:
        raise InvalidRequestError(
            f"inputs[0].contents.{others[0]}", "does not fit the datatype BYTES; use bytes_contents"
        )
    if not request.raw_input_contents:
        return list(contents.bytes_contents)
    if request.inputs[0].HasField("contents"):
        raise InvalidRequestError(
            "inputs[0].contents", "is set beside raw_input_contents; send one of the two"
        )
    if len(request.raw_input_contents) != 1:
        raise InvalidRequestError(
            "raw_input_contents",
            f"has {len(request.raw_input_contents)} entries for 1 tensor; send one per tensor",
        )
    try:
        return list(bytes_tensors.unpack(request.raw_input_contents[0]))
    except ValueError as err:
        raise InvalidRequestError(
            "raw_input_contents", f"{err}; each element follows its length in 4 bytes"
        ) from err


def _check_output(field: str, output: pb.ModelInferRequest.InferRequestedOutputTensor) -> None:
    if output.name != OUTPUT:
        raise InvalidRequestError(
            f"{field}.name", f"{output.name[:40]!r} is unknown; the model has {OUTPUT!r}"
        )
    _check_parameters(f"{field}.parameters", output.parameters, _NEUTRAL_OUTPUT)


def _check_parameters(
    field: str,
    parameters: Mapping[str, pb.InferParameter],
    neutral: Mapping[str, tuple[str, ...]],
) -> None:
    for name, parameter in parameters.items():
        shown = f"{field}[{name[:40]!r}]"
        if name.startswith(_SHARED_MEMORY):
            raise InvalidRequestError(shown, "needs shared memory, which is not served; remove it")
        if name not in neutral:
            raise InvalidRequestError(shown, "is unknown; remove it")
        _value(shown, parameter, neutral[name])


def _value(
    field: str, parameter: pb.InferParameter, kinds: tuple[str, ...]
) -> bool | int | float | str:
    kind = parameter.WhichOneof("parameter_choice")
    if kind is None or kind not in kinds:
        raise InvalidRequestError(
            field, f"has the wrong type {kind or 'none'}; use {' or '.join(kinds)}"
        )
    value: bool | int | float | str = getattr(parameter, kind)
    return value


def _timeout_s(field: str, parameter: pb.InferParameter) -> float:
    """Return the limit in seconds; the wire has microseconds, and 0 is no limit."""
    microseconds = int(_value(field, parameter, _NUMBER))
    if microseconds < 0:
        raise InvalidRequestError(field, f"{microseconds} is negative; at least 0 is allowed")
    return microseconds / 1e6 if microseconds else math.inf


def _set_parameter(
    field: str, template: router_pb2.GenerateRequest, name: str, parameter: pb.InferParameter
) -> None:
    """Set the parameter in the router's own request."""
    if name == "stop":
        template.stop.append(str(_value(field, parameter, _TEXT)))
    elif name == "adapters":
        _add_adapters(field, template, str(_value(field, parameter, _TEXT)))
    elif name in GENERATION:
        _assign(field, template, name, parameter)
    elif name in SAMPLING:
        _assign(field, template.sampling, name, parameter)
    else:
        raise InvalidRequestError(field, "is unknown; remove it")


def _add_adapters(field: str, template: router_pb2.GenerateRequest, text: str) -> None:
    for part in text.split(","):
        name, has_scale, scale = part.strip().partition("=")
        adapter = template.adapters.add(name=name)
        if has_scale:
            try:
                adapter.scale = float(scale)
            except ValueError as err:
                raise InvalidRequestError(
                    field, f"the scale {scale[:20]!r} of {name[:40]!r} is no number; use [0, 2]"
                ) from err


def _assign(field: str, message: Message, name: str, parameter: pb.InferParameter) -> None:
    flag = message.DESCRIPTOR.fields_by_name[name].type == FieldDescriptor.TYPE_BOOL
    value = _value(field, parameter, _FLAG if flag else (*_NUMBER, "double_param"))
    try:
        setattr(message, name, value)
    except (TypeError, ValueError, OverflowError) as err:
        raise InvalidRequestError(field, f"has the wrong type or range: {err}") from err
