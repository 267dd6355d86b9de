"""Field types of OpenAI bodies: null members, and fields that are known but not served."""

from typing import Annotated, Any

import pytest
from bem_fleet.services.gateway.errors import from_validation
from bem_fleet.services.gateway.openai_fields import OpenAIBody, as_list, only
from pydantic import ValidationError


class Body(OpenAIBody):
    """A body with a served field and two that are not served."""

    size: int = 1
    tools: Annotated[Any, only([])] = None
    beams: Annotated[Any, only(False, 1)] = None


def error_of(body: dict[str, Any]) -> dict[str, Any]:
    """Return the error object for an invalid body."""
    with pytest.raises(ValidationError) as caught:
        Body.model_validate(body)
    return dict(from_validation(caught.value.errors()).body)


def test_null_members_are_not_set_whatever_their_name_is() -> None:
    """Client libraries send every field that they know."""
    assert Body.model_validate({"guided_regex": None, "tools": None}) == Body()
    assert error_of({"size": None})["param"] == "size"
    assert error_of({"guided_regex": "a+"})["code"] == "unknown_parameter"


def test_values_that_ask_for_nothing_are_taken_and_others_refused_by_name() -> None:
    """The error says which values are allowed."""
    assert Body.model_validate({"tools": [], "beams": False}).size == 1
    refused = error_of({"tools": [{"type": "function"}]})

    assert (refused["param"], refused["code"]) == ("tools", "unsupported_parameter")
    assert refused["message"].startswith("tools: ")
    assert "null or []" in refused["message"]


@pytest.mark.parametrize("value", [True, 0, "", [], 2])
def test_json_types_are_told_apart(value: Any) -> None:
    """True is no 1, and 0 is no false."""
    assert error_of({"beams": value})["param"] == "beams"


def test_one_text_is_a_list_of_one() -> None:
    """Other values stay what they are."""
    assert (as_list("a"), as_list(["a"]), as_list(5)) == (["a"], ["a"], 5)
