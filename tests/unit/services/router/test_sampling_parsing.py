"""Sampling parsing: what each parameter becomes, and its range."""

import pytest
from bem.engine import Sampling
from bem.errors import InvalidRequestError
from bem_fleet.services.router.sampling_parsing import parse_sampling
from bemfleet.router.v1 import router_pb2 as pb


def test_unset_parameters_change_nothing() -> None:
    """The defaults are those of the engine."""
    assert parse_sampling(pb.Sampling(), 100) == Sampling()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (pb.Sampling(top_p=0), Sampling(temperature=0)),
        (pb.Sampling(top_p=0, temperature=1.5, seed=3), Sampling(temperature=0, seed=3)),
        (pb.Sampling(top_k=-1), Sampling()),
        (pb.Sampling(top_k=0), Sampling()),
        (pb.Sampling(min_p=0.25, top_k=7), Sampling(min_p=0.25, top_k=7)),
    ],
)
def test_values_that_other_servers_take_have_their_meaning(
    message: pb.Sampling, expected: Sampling
) -> None:
    """An empty nucleus is greedy, as in vLLM a top-k of -1 keeps all tokens."""
    assert parse_sampling(message, 100) == expected


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.Sampling(temperature=2.1), "temperature"),
        (pb.Sampling(top_p=1.1), "top_p"),
        (pb.Sampling(top_p=float("nan")), "top_p"),
        (pb.Sampling(top_k=-2), "top_k"),
        (pb.Sampling(min_p=-0.1), "min_p"),
        (pb.Sampling(min_p=1.5), "min_p"),
        (pb.Sampling(repetition_penalty=0), "repetition_penalty"),
        (pb.Sampling(logit_bias={100: 1}), "logit_bias"),
        (pb.Sampling(logprobs=21), "logprobs"),
    ],
)
def test_values_out_of_range_name_their_field(message: pb.Sampling, field: str) -> None:
    """The error has the path of the parameter and its limit."""
    with pytest.raises(InvalidRequestError) as caught:
        parse_sampling(message, 100)

    assert caught.value.field == f"sampling.{field}"
    assert "; " in str(caught.value)
