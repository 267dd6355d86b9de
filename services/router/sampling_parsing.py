"""Sampling parsing: validates the sampling parameters of wire requests."""

import math
from collections.abc import Mapping

from bem.engine import Sampling
from bem.engine.api import MAX_LOGPROBS
from bem.errors import InvalidRequestError
from bemfleet.router.v1 import router_pb2 as pb

MAX_BIASES = 1024


def parse_sampling(message: pb.Sampling, vocabulary: int) -> Sampling:
    """Return the sampling settings of a request.

    Args:
        message: Sampling parameters as received.
        vocabulary: Number of tokens of the model.

    Raises:
        InvalidRequestError: A parameter is out of its range.
    """
    temperature = message.temperature if message.HasField("temperature") else 1.0
    top_p = message.top_p if message.HasField("top_p") else 1.0
    repetition = message.repetition_penalty if message.HasField("repetition_penalty") else 1.0
    check_range("sampling.temperature", temperature, 0, 2)
    check_range("sampling.top_p", top_p, 0, 1)
    check_range("sampling.repetition_penalty", repetition, 0, 2)
    if repetition == 0:
        raise InvalidRequestError("sampling.repetition_penalty", "is 0; it must be above 0")
    if message.top_k < -1:
        raise InvalidRequestError(
            "sampling.top_k",
            f"{message.top_k} is too small; at least -1 is allowed, which keeps all; raise it",
        )
    check_range("sampling.min_p", message.min_p, 0, 1)
    check_range("sampling.presence_penalty", message.presence_penalty, -2, 2)
    check_range("sampling.frequency_penalty", message.frequency_penalty, -2, 2)
    check_range("sampling.logprobs", message.logprobs, 0, MAX_LOGPROBS)
    if top_p == 0:  # the smallest nucleus: the most likely token alone
        temperature, top_p = 0.0, 1.0
    return Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=max(0, message.top_k),
        min_p=message.min_p,
        seed=message.seed if message.HasField("seed") else None,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        repetition_penalty=repetition,
        logit_bias=_logit_bias(message.logit_bias, vocabulary),
        logprobs=message.logprobs if message.HasField("logprobs") else None,
    )


def _logit_bias(biases: Mapping[int, float], vocabulary: int) -> tuple[tuple[int, float], ...]:
    if len(biases) > MAX_BIASES:
        raise InvalidRequestError(
            "sampling.logit_bias", f"{len(biases)} tokens; at most {MAX_BIASES} are allowed"
        )
    for token, value in biases.items():
        check_token("sampling.logit_bias", token, vocabulary)
        check_range("sampling.logit_bias", value, -100, 100)
    return tuple(sorted(biases.items()))


def check_token(field: str, token: int, vocabulary: int) -> None:
    """Check that the model has a token.

    Raises:
        InvalidRequestError: It has not.
    """
    if not 0 <= token < vocabulary:
        raise InvalidRequestError(
            field, f"has an unknown token {token}; the model has 0 to {vocabulary - 1}"
        )


def check_range(field: str, value: float, low: float, high: float) -> None:
    """Check that a number is finite and within its limits.

    Raises:
        InvalidRequestError: It is not.
    """
    if not math.isfinite(value) or not low <= value <= high:
        raise InvalidRequestError(
            field, f"{value:g} is out of range; [{low:g}, {high:g}] is allowed"
        )
