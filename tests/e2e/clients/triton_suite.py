"""Triton's gRPC client against a sidecar: metadata, batches, pieces, reserved parameters, errors.

It registers its own copy of the protocol's messages, so it runs in a process without ours.
``FLEET_SIDECAR`` is the address of the sidecar.
"""

import os
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

ADDRESS = os.environ["FLEET_SIDECAR"]
KEY = os.environ.get("FLEET_KEY")
HEADERS = {"authorization": f"Bearer {KEY}"} if KEY else None
BASE = "smollm2-135m-instruct"
GREEDY = {"max_tokens": 24, "temperature": 0.0}
FINAL = "triton_final_response"


@pytest.fixture
def client() -> Iterator[triton.InferenceServerClient]:
    """A client of the sidecar."""
    with triton.InferenceServerClient(ADDRESS) as made:
        yield made


def tensor(*texts: bytes, module: Any = triton) -> Any:
    """The input tensor with these texts."""
    made = module.InferInput("text_input", [len(texts)], "BYTES")
    made.set_data_from_numpy(np.array(texts, dtype=object))
    return made


def infer(client: triton.InferenceServerClient, *texts: bytes, **arguments: Any) -> Any:
    """Answer a batch greedily."""
    return client.infer(
        BASE, [tensor(*texts)], headers=HEADERS, **{"parameters": GREEDY, **arguments}
    )


class Stream:
    """A stream of the client with what it received."""

    def __init__(self, client: triton.InferenceServerClient) -> None:
        self._client = client
        self._received: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(
            lambda result, error: self._received.put((result, error)), headers=HEADERS
        )

    def send(self, text: bytes, **arguments: Any) -> None:
        """Send a request of one text."""
        self._client.async_stream_infer(
            arguments.pop("model", BASE), [tensor(text)], **{"parameters": GREEDY, **arguments}
        )

    def receive(self) -> tuple[Any, Any]:
        """Return the next result and error; exactly one of them is None."""
        return self._received.get(timeout=120)

    def answer(self) -> list[Any]:
        """Return the responses of one request, up to its final one."""
        responses: list[Any] = []
        while not responses or not responses[-1].get_response().parameters[FINAL].bool_param:
            result, error = self.receive()
            assert error is None
            responses.append(result)
        return responses


@pytest.fixture
def stream(client: triton.InferenceServerClient) -> Iterator[Stream]:
    """An open stream."""
    yield Stream(client)
    client.stop_stream(cancel_requests=True)


def text_of(responses: list[Any]) -> str:
    """Return the text of all pieces."""
    pieces = [response.as_numpy("text_output") for response in responses]
    return b"".join(piece[0] for piece in pieces if piece is not None).decode()


def test_server_and_models_are_described(client: triton.InferenceServerClient) -> None:
    """Liveness, readiness, metadata and configuration answer for base and adapter."""
    assert client.is_server_live(headers=HEADERS)
    assert client.is_server_ready(headers=HEADERS)
    assert "model_configuration" in client.get_server_metadata(headers=HEADERS).extensions
    for model in (BASE, "passage-qa"):
        metadata = client.get_model_metadata(model, headers=HEADERS)
        config = client.get_model_config(model, headers=HEADERS).config
        assert client.is_model_ready(model, metadata.versions[0], headers=HEADERS)
        assert (metadata.inputs[0].datatype, metadata.inputs[0].shape) == ("BYTES", [-1])
        assert config.model_transaction_policy.decoupled
        assert [tensor.name for tensor in config.output] == ["text_output"]


def test_unknown_models_and_versions_are_not_found(client: triton.InferenceServerClient) -> None:
    """Readiness says no; everything else is NOT_FOUND and names what is served."""
    assert not client.is_model_ready("none", headers=HEADERS)
    assert not client.is_model_ready(BASE, "1", headers=HEADERS)
    for call in (client.get_model_metadata, client.get_model_config):
        for model, version in (("none", ""), (BASE, "1")):
            with pytest.raises(InferenceServerException, match=r"served|loaded") as caught:
                call(model, version, headers=HEADERS)
            assert caught.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException) as caught:
        infer(client, b"hi", model_version="1")
    assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_batch_is_answered_in_order_with_id_and_version(
    client: triton.InferenceServerClient,
) -> None:
    """Both texts are continued; the response names the request and the version."""
    version = client.get_model_metadata(BASE, headers=HEADERS).versions[0]
    result = infer(
        client,
        b"One, two, three,",
        b"A, B, C, D,",
        request_id="batch-1",
        model_version=version,
        outputs=[triton.InferRequestedOutput("text_output")],
    )
    texts = [text.decode() for text in result.as_numpy("text_output")]

    assert "four" in texts[0]
    assert texts[1].startswith(" E, F")
    assert (result.get_response().id, result.get_response().model_version) == ("batch-1", version)


def test_reserved_arguments_are_accepted(client: triton.InferenceServerClient) -> None:
    """Sequence, priority and timeout are the client's own arguments and change no text."""
    plain = infer(client, b"One, two, three,").as_numpy("text_output")
    for reserved in (
        {"sequence_id": 7, "sequence_start": True, "sequence_end": True},
        {"sequence_id": "session-a"},
        {"priority": 2},
        {"timeout": 60_000_000},
    ):
        answer = infer(client, b"One, two, three,", **reserved)
        assert (answer.as_numpy("text_output") == plain).all()


def test_timeout_ends_a_request(client: triton.InferenceServerClient) -> None:
    """The limit in microseconds is the request's deadline."""
    with pytest.raises(InferenceServerException) as caught:
        infer(client, b"One, two, three,", timeout=1, parameters={"max_tokens": 256})

    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_stream_sends_pieces_of_the_same_text(
    client: triton.InferenceServerClient, stream: Stream
) -> None:
    """The pieces add up to the unary answer, and only the last one is final."""
    longer = {**GREEDY, "max_tokens": 64}
    unary = infer(client, b"Once upon a time", parameters=longer).as_numpy("text_output")[0]
    stream.send(b"Once upon a time", request_id="s-1", parameters=longer)
    responses = stream.answer()

    assert len(responses) > 3
    assert text_of(responses) == unary.decode()
    assert {response.get_response().id for response in responses} == {"s-1"}


def test_empty_final_response_is_sent_when_requested(stream: Stream) -> None:
    """The last response then has no output."""
    stream.send(b"One, two,", enable_empty_final_response=True)
    *pieces, last = stream.answer()

    assert text_of(pieces)
    assert last.as_numpy("text_output") is None


def test_open_stream_answers_before_the_next_request(stream: Stream) -> None:
    """A client that waits for each answer is never kept waiting by the hold-back window."""
    for index in range(3):
        stream.send(b"One, two,", request_id=f"turn-{index}")
        responses = stream.answer()
        assert text_of(responses)
        assert responses[0].get_response().id == f"turn-{index}"


def test_error_of_one_request_leaves_the_stream_open(stream: Stream) -> None:
    """An unknown model and a bad parameter are errors of their own requests."""
    stream.send(b"x", model="none", request_id="bad-1")
    stream.send(b"x", parameters={"colour": "red"}, request_id="bad-2")
    stream.send(b"One, two,", request_id="good")
    errors = [stream.receive()[1] for _ in range(2)]
    responses = stream.answer()

    assert "'none' is not loaded" in str(errors[0])
    assert "parameters['colour']" in str(errors[1])
    assert responses[-1].get_response().id == "good"


@pytest.mark.parametrize(
    ("shape", "datatype", "name"),
    [([2], "BYTES", "text_input"), ([1, 1], "BYTES", "text_input"), ([1], "BYTES", "INPUT0")],
)
def test_wrong_tensors_are_invalid(
    client: triton.InferenceServerClient, shape: list[int], datatype: str, name: str
) -> None:
    """Shape and name are checked against the contents and the metadata."""
    wrong = triton.InferInput(name, [1], datatype)
    wrong.set_data_from_numpy(np.array([b"x"], dtype=object))
    wrong.set_shape(shape)
    with pytest.raises(InferenceServerException, match="inputs") as caught:
        client.infer(BASE, [wrong], headers=HEADERS)

    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_numbers_are_refused_by_datatype(client: triton.InferenceServerClient) -> None:
    """A model of text takes no numbers."""
    wrong = triton.InferInput("text_input", [1], "INT32")
    wrong.set_data_from_numpy(np.array([1], dtype=np.int32))
    with pytest.raises(InferenceServerException, match="'INT32' is not supported") as caught:
        client.infer(BASE, [wrong], headers=HEADERS)

    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_shared_memory_is_refused_by_name(client: triton.InferenceServerClient) -> None:
    """An input that lies in shared memory cannot be read."""
    wrong = triton.InferInput("text_input", [1], "BYTES")
    wrong.set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException, match="shared memory"):
        client.infer(BASE, [wrong], headers=HEADERS)


def test_unknown_output_is_refused(client: triton.InferenceServerClient) -> None:
    """The error names the output that the model has."""
    with pytest.raises(InferenceServerException, match="text_output"):
        infer(client, b"x", outputs=[triton.InferRequestedOutput("logits")])


@pytest.mark.asyncio
async def test_async_client_streams_pieces() -> None:
    """The asynchronous client reads the same stream."""

    async def requests() -> Any:
        yield {
            "model_name": BASE,
            "inputs": [tensor(b"One, two, three,", module=triton_aio)],
            "parameters": GREEDY,
        }

    async with triton_aio.InferenceServerClient(ADDRESS) as asynchronous:
        pieces = []
        async for result, error in asynchronous.stream_infer(requests(), headers=HEADERS):
            assert error is None
            pieces.append(result)

    assert len(pieces) > 1
    assert "four" in text_of(pieces)
