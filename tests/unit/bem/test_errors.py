"""Tests of the library's exceptions: texts and fields that services use."""

import inspect

from bem import errors


def test_every_error_has_one_base_class() -> None:
    """A service can catch all errors of the library at once."""
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]

    assert len(classes) > 15
    assert all(issubclass(c, errors.BemError) for c in classes)
    assert all(c.__doc__ and c.__doc__.splitlines()[0].endswith(".") for c in classes)


def test_unknown_adapter_lists_the_loaded_ones() -> None:
    """At most 16 names are listed."""
    assert str(errors.AdapterNotFoundError("x", [])) == "adapter 'x' is not loaded; loaded: none"
    names = [f"a{i:02}" for i in range(18)]
    text = str(errors.AdapterNotFoundError("x", names))

    assert "a15 and 2 more" in text
    assert "a16" not in text


def test_fields_survive_for_the_services() -> None:
    """Field, problem and retry delay are attributes, not only text."""
    invalid = errors.InvalidRequestError("stop", "is too long")
    full = errors.QueueFullError(3, 0.25)

    assert (invalid.field, invalid.problem, str(invalid)) == (
        "stop",
        "is too long",
        "stop: is too long",
    )
    assert full.retry_after_s == 0.25
    assert "3 waiting" in str(full)
