"""Requests of the Open Inference Protocol, checked as the protocol states them."""

import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from bem.errors import InvalidRequestError
from bem_fleet.services.router.infer_requests import (
    MAX_BATCH,
    in_callers_terms,
    parse_infer_request,
)
from fleet import bytes_tensors
from hypothesis import given
from hypothesis import strategies as st
from inference import open_inference_pb2 as pb

Change = Callable[[pb.ModelInferRequest], Any]


def typed(*texts: bytes) -> pb.ModelInferRequest:
    """A request with typed contents."""
    request = pb.ModelInferRequest(model_name="tiny")
    tensor = request.inputs.add(name="text_input", datatype="BYTES", shape=[len(texts)])
    tensor.contents.bytes_contents.extend(texts)
    return request


def raw(*texts: bytes) -> pb.ModelInferRequest:
    """A request with raw contents."""
    request = typed(*texts)
    request.inputs[0].ClearField("contents")
    request.raw_input_contents.append(bytes_tensors.pack(texts))
    return request


@given(texts=st.lists(st.text(max_size=9), min_size=1, max_size=MAX_BATCH))
def test_raw_and_typed_contents_give_the_same_texts(texts: list[str]) -> None:
    """Both forms of a BYTES tensor mean the same."""
    encoded = [text.encode() for text in texts]

    assert parse_infer_request(raw(*encoded)).texts == tuple(texts)
    assert parse_infer_request(typed(*encoded)).texts == tuple(texts)


@pytest.mark.parametrize(
    "shape", [[], [1], [3], [0], [-1], [-2, -1], [2, 1], [1, 2], [2**62, 4], [1] * 9]
)
def test_shape_must_be_that_of_the_contents(shape: list[int]) -> None:
    """Two texts have the shape [2]: no other product, sign, rank or overflow passes."""
    for request in (raw(b"a", b"b"), typed(b"a", b"b")):
        del request.inputs[0].shape[:]
        request.inputs[0].shape.extend(shape)
        with pytest.raises(InvalidRequestError) as caught:
            parse_infer_request(request)
        assert caught.value.field == "inputs[0].shape"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda r: r.ClearField("model_name"), "model_name"),
        (lambda r: r.ClearField("inputs"), "inputs"),
        (lambda r: r.inputs.add(name="text_input"), "inputs"),
        (lambda r: setattr(r.inputs[0], "name", "INPUT0"), "inputs"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP32"), "inputs[0].datatype"),
        (lambda r: setattr(r.inputs[0], "datatype", ""), "inputs[0].datatype"),
        (
            lambda r: r.inputs[0].contents.fp32_contents.append(1),
            "inputs[0].contents.fp32_contents",
        ),
        (lambda r: r.raw_input_contents.append(b"\1\0\0\0x"), "inputs[0].contents"),
        (lambda r: r.outputs.add(name="logits"), "outputs[0].name"),
        (
            lambda r: (
                r.outputs.add(name="text_output")
                .parameters["classification"]
                .CopyFrom(pb.InferParameter(int64_param=3))
            ),
            "outputs[0].parameters['classification']",
        ),
        (
            lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "string_param", "r"),
            "inputs[0].parameters['shared_memory_region']",
        ),
    ],
)
def test_what_the_protocol_forbids_is_refused_by_field(change: Change, field: str) -> None:
    """Tensors, datatypes, contents and outputs are checked one by one."""
    request = typed(b"x")
    change(request)
    with pytest.raises(InvalidRequestError) as caught:
        parse_infer_request(request)

    assert caught.value.field == field


@pytest.mark.parametrize(
    "contents", [[b"\1\0\0"], [b"\5\0\0\0x"], [b"\1\0\0\0x", b""], [b"\1\0\0\0x"] * 2]
)
def test_raw_contents_are_whole_and_one_for_each_tensor(contents: list[bytes]) -> None:
    """A cut length prefix or element, and a surplus entry, are refused."""
    request = raw(b"x")
    del request.raw_input_contents[:]
    request.raw_input_contents.extend(contents)
    with pytest.raises(InvalidRequestError, match="raw_input_contents"):
        parse_infer_request(request)


def parameters(**values: Any) -> pb.ModelInferRequest:
    """A request with parameters."""
    request = typed(b"x")
    for name, value in values.items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
        setattr(request.parameters[name], kind[type(value)], value)
    return request


def test_parameters_of_standard_clients_are_accepted() -> None:
    """What tritonclient sends with every request changes nothing of a model without state."""
    request = parameters(
        sequence_id=7,
        sequence_start=True,
        sequence_end=False,
        priority=1,
        timeout=250_000,
        binary_data_output=True,
        triton_enable_empty_final_response=True,
        temperature=0.0,
        top_k=3,
        max_tokens=5,
    )
    request.inputs[0].parameters["binary_data_size"].int64_param = 5
    request.outputs.add(name="text_output").parameters["binary_data"].bool_param = True
    parsed = parse_infer_request(request)
    generated = parsed.generate_request("hello")

    assert parsed.empty_final
    assert parsed.timeout_s == pytest.approx(0.25)
    assert (generated.prompt, generated.model, generated.max_tokens) == ("hello", "tiny", 5)
    assert (generated.sampling.top_k, generated.sampling.temperature) == (3, 0)
    assert parse_infer_request(parameters(sequence_id="session-a")).texts == ("x",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("colour", "red"),
        ("logprobs", 3),
        ("adapter_from_message", 1),
        ("prompt", "x"),
        ("max_tokens", True),
        ("max_tokens", 2.5),
        ("max_tokens", 2**40),
        ("temperature", "hot"),
        ("stop", 3),
        ("adapters", 3),
        ("adapters", "tone=loud"),
        ("sequence_start", 1),
        ("priority", "high"),
        ("timeout", -1),
        ("timeout", 0.5),
        ("enable_empty_final_response", "yes"),
    ],
)
def test_parameters_of_a_wrong_type_or_name_are_refused(name: str, value: Any) -> None:
    """Each is refused by its own name."""
    with pytest.raises(InvalidRequestError) as caught:
        parse_infer_request(parameters(**{name: value}))

    assert caught.value.field == f"parameters[{name!r}]"


def test_the_clients_limit_and_the_calls_deadline_meet() -> None:
    """The earlier one counts; 0 microseconds are no limit."""
    now = time.monotonic()
    limited = parse_infer_request(parameters(timeout=2_000_000))
    unlimited = parse_infer_request(parameters(timeout=0))

    assert limited.deadline(None) == pytest.approx(now + 2, abs=1)
    assert limited.deadline(now + 0.5) == now + 0.5
    assert math.isinf(unlimited.timeout_s)
    assert unlimited.deadline(None) is None


def test_errors_name_what_the_caller_set() -> None:
    """The router's own field names are translated to parameters and tensors."""
    request = parameters(temperature=9.0, max_tokens=0)
    fields = {
        "sampling.temperature": "parameters['temperature']",
        "max_tokens": "parameters['max_tokens']",
        "prompt": "inputs[0]",
        "bem-safety-strength": "bem-safety-strength",
    }
    for own, callers in fields.items():
        err: Any = in_callers_terms(InvalidRequestError(own, "is wrong"), request)
        assert err.field == callers


def test_adapters_are_a_text_of_names_and_scales() -> None:
    """Names are separated by commas; a scale follows its name, and is 1 if it is left out."""
    parsed = parse_infer_request(parameters(adapters="tone=0.5, domain"))
    found = parsed.generate_request("x").adapters

    assert [(one.name, one.HasField("scale"), one.scale) for one in found] == [
        ("tone", True, 0.5),
        ("domain", False, 0.0),
    ]
