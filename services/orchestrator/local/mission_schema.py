"""Mission schema: validation and defaults of the CRD for mission files.

An API server validates objects and fills defaults in by the schema of the CustomResourceDefinition.
On one machine this module does both, from the same file, so that a default is stated once.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from bem_fleet.services.orchestrator.kube.api import InvalidError, Object
from jsonschema import Draft202012Validator


class MissionSchema:
    """Schema of a Mission's ``spec``.

    Args:
        crd: Path of the CustomResourceDefinition.
    """

    def __init__(self, crd: Path) -> None:
        version = yaml.safe_load(crd.read_text())["spec"]["versions"][0]
        self._spec: Object = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
        self._validator = Draft202012Validator(_reject_unknown_keys(self._spec))

    def fill_defaults(self, spec: Object) -> Object:
        """Return a ``spec`` with the defaults filled in."""
        completed: Object = _fill_defaults(spec, self._spec)
        return completed

    def validate(self, spec: Object) -> None:
        """Check a ``spec`` with its defaults filled in.

        Raises:
            InvalidError: The schema or one of its rules rejects the specification.
        """
        for error in self._validator.iter_errors(spec):
            path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.path)
            raise InvalidError(422, f"spec{path}: {error.message[:300]}")
        _check_canary(spec.get("canary"))


def _check_canary(canary: Mapping[str, Any] | None) -> None:
    """Check the rules on ``spec.canary`` that the CRD states in CEL.

    Raises:
        InvalidError: A rule is broken, or the canary needs a cluster.
    """
    if canary is None:
        return
    if "model" not in canary or "image" in canary:
        problem = "set model; an image needs a second Deployment, which needs a cluster"
        raise InvalidError(422, f"spec.canary: {problem}")
    weights = [step["weight"] for step in canary["steps"]]
    if weights != sorted(weights):
        raise InvalidError(422, "spec.canary.steps.weight: must not fall from step to step")


def _fill_defaults(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return ``value`` with defaults, as an API server fills them in.

    A default is set where its key is absent, and is then completed itself: ``analysis: {}`` becomes
    an object with all of its own defaults.
    """
    if isinstance(value, list):
        return [_fill_defaults(item, schema.get("items") or {}) for item in value]
    if not isinstance(value, dict):
        return value
    completed = dict(value)
    for key, field in (schema.get("properties") or {}).items():
        if key not in completed and "default" in field:
            completed[key] = deepcopy(field["default"])
        if key in completed:
            completed[key] = _fill_defaults(completed[key], field)
    return completed


def _reject_unknown_keys(schema: Any) -> Any:
    """Return the schema with unknown keys rejected, which an API server drops with a warning."""
    if isinstance(schema, list):
        return [_reject_unknown_keys(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _reject_unknown_keys(value) for key, value in schema.items()}
    if isinstance(strict.get("properties"), dict) and strict.get("type") == "object":
        strict.setdefault("additionalProperties", False)
    return strict
