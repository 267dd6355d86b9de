"""Field types of OpenAI bodies: null members, texts, and fields that are known but not served.

A client library sends more fields than a caller sets. Three rules decide what becomes of them:

- A member that is null is not set, whatever its name is.
- A field that can change only cost, caching or bookkeeping is taken and has no effect.
- A field that would change the answer and is not served is refused by its name, unless it has the
  value that asks for nothing, such as ``"tools": []``.
"""

from typing import Any

from bem_fleet.services.gateway.errors import UNSUPPORTED_FIELD
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


class OpenAIBody(BaseModel):
    """Base class of all objects of a body; unknown members are errors unless they are null."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_unknown_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = cls.model_fields
        return {
            name: member for name, member in value.items() if member is not None or name in known
        }


def only(*neutral: Any) -> BeforeValidator:
    """Return a validator for a field that is not served: it takes null and ``neutral`` values.

    Args:
        neutral: JSON values that ask for nothing.
    """

    def check(value: Any) -> Any:
        if value is None or any(_same(value, one) for one in neutral):
            return value
        raise PydanticCustomError(
            UNSUPPORTED_FIELD,
            "is not served with this value; {allowed} is allowed; leave the field out",
            {"allowed": " or ".join(["null", *(_spell(one) for one in neutral)])},
        )

    return BeforeValidator(check)


def as_list(value: Any) -> Any:
    """Read one text as a list of one, so that an error names the limit and not two types."""
    return [value] if isinstance(value, str) else value


def as_prompts(value: Any) -> Any:
    """Read one text, or the token ids of one text, as a list of one prompt."""
    if isinstance(value, list) and value and isinstance(value[0], int):
        return [value]
    return as_list(value)


def _same(value: Any, other: Any) -> bool:
    # True equals 1 in Python, but not in JSON.
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _spell(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')
