"""Configuration of a PEFT LoRA: which options can be imported, and what they mean for each module.

The options are an allow-list. peft adds options with every release, and most of them change what a
LoRA computes; an option that this module does not know is refused unless its value switches it off.
Patterns are matched as ``peft.tuners.tuners_utils.check_target_module_exists`` and
``peft.utils.other.get_pattern_key`` match them.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bem.errors import ArtifactFormatError

CONFIG = "adapter_config.json"
# Options that say how the LoRA was trained or stored, and nothing about its outputs.
_NEUTRAL = frozenset({
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "eva_config",  # it chose the initial A, which the weights hold
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",  # read only where use_qalora is set
    "revision",
    "runtime_config",
})  # fmt: skip
# Options that this module evaluates itself.
_EVALUATED = frozenset({
    "alora_invocation_tokens",
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "task_type",
    "use_rslora",
})  # fmt: skip
# Why an option is refused, where more can be said than its name; and what to do.
_REASONS = {
    "use_dora": "DoRA scales the base weights too",
    "modules_to_save": "it replaces whole modules of the base model",
    "trainable_token_indices": "it replaces rows of the embedding",
    "target_parameters": "it adapts parameters that are no linear layers",
    "layer_replication": "it repeats layers of the base model",
    "lora_bias": "it adds a bias",
    "fan_in_fan_out": "it is for transposed weights",
    "kasa_config": "KaSA changes the base weights",
    "loftq_config": "LoftQ changes the base weights",
}
# Initialisations that leave the base weights as they are; with every other one, peft's model is
# another base model with a LoRA.
_KEEPS_BASE = (True, False, None, "gaussian", "orthogonal", "eva")
_CONVERSION = (
    "save it as an ordinary LoRA: "
    "model.save_pretrained(folder, path_initial_model_for_weight_conversion=initial_adapter)"
)


@dataclass(frozen=True)
class LoraConfig:
    """Options of a LoRA that decide what it computes.

    Attributes:
        base: Base model that the LoRA was trained for, a name or a path; empty if not stated.
        rank: Rank of modules without a pattern of their own.
        alpha: Numerator of the scale of modules without a pattern of their own.
        rank_pattern: Rank by regular expression of the module path.
        alpha_pattern: Numerator by regular expression of the module path.
        rank_stabilised: Whether the scale is ``alpha / sqrt(rank)`` instead of ``alpha / rank``.
        targets: Regular expression of the module path, or ends of it.
        excluded: Regular expression of the module path, or ends of it; empty excludes nothing.
        layers: Layers to adapt; None for all.
        layers_patterns: Names of the module list that holds the layers; empty allows any.
        invocation_tokens: Tokens that activate the LoRA (arXiv 2504.12397); empty for one that runs
            on the whole prompt.
    """

    base: str
    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rank_stabilised: bool
    targets: str | tuple[str, ...]
    excluded: str | tuple[str, ...]
    layers: tuple[int, ...] | None
    layers_patterns: tuple[str, ...]
    invocation_tokens: tuple[int, ...] = ()

    def adapts(self, path: str) -> bool:
        """Return whether peft adapts the module at ``path``."""
        if self.excluded and _names(self.excluded, path):
            return False
        # Where the path itself is listed, or an expression decides, layer numbers are not read.
        if isinstance(self.targets, str) or path in self.targets:
            return _names(self.targets, path)
        return _names(self.targets, path) and (self.layers is None or self._layer(path))

    def rank_of(self, path: str) -> int:
        """Return the rank of the module at ``path``."""
        return int(_first_match(self.rank_pattern, path, self.rank))

    def scale_of(self, path: str) -> float:
        """Return the factor of the low-rank product of the module at ``path``."""
        rank, alpha = self.rank_of(path), _first_match(self.alpha_pattern, path, self.alpha)
        return alpha / math.sqrt(rank) if self.rank_stabilised else alpha / rank

    def _layer(self, path: str) -> bool:
        """Return whether the first layer index in ``path`` is one of the layers to adapt."""
        patterns = [rf"(?:^|.*?\.){one}\." for one in self.layers_patterns] or [r".*?\.[^.]*\."]
        for pattern in patterns:
            if match := re.match(rf"{pattern}(?P<idx>\d+)\.", path):
                return int(match["idx"]) in (self.layers or ())
        return False


def parse_config(label: str, values: Mapping[str, Any]) -> LoraConfig:
    """Return the options of ``adapter_config.json``.

    Args:
        label: Name of the folder in error messages.
        values: Content of the file.

    Raises:
        ArtifactFormatError: It is no LoRA of a causal language model, or an option is unsupported.
    """
    _check_kind(label, values)
    _check_initialisation(label, values)
    unsupported = [
        name
        for name, value in values.items()
        if name not in _NEUTRAL | _EVALUATED and not _is_off(value)
    ]
    if values.get("bias", "none") != "none":
        unsupported.append("bias")
    if unsupported:
        reasons = [f"{n} ({_REASONS[n]})" if n in _REASONS else n for n in sorted(unsupported)]
        raise ArtifactFormatError(
            f"{label}: {', '.join(reasons)} is not supported; train the LoRA without it"
        )
    layers = _value(label, values, "layers_to_transform", None, _is_layers)
    config = LoraConfig(
        base=_value(label, values, "base_model_name_or_path", "", _is_text),
        rank=_value(label, values, "r", 8, _is_rank),
        alpha=_value(label, values, "lora_alpha", 8, _is_number),
        rank_pattern=_value(label, values, "rank_pattern", {}, _pattern_of(_is_rank)),
        alpha_pattern=_value(label, values, "alpha_pattern", {}, _pattern_of(_is_number)),
        rank_stabilised=_value(label, values, "use_rslora", False, _is_bool),
        targets=_texts(_value(label, values, "target_modules", (), _is_modules)),
        excluded=_texts(_value(label, values, "exclude_modules", (), _is_modules)),
        layers=None if layers in (None, []) else _indices(layers),
        layers_patterns=_listed(_value(label, values, "layers_pattern", (), _is_modules)),
        invocation_tokens=tuple(_value(label, values, "alora_invocation_tokens", (), _is_tokens)),
    )
    _check_patterns(label, config)
    if not config.targets:
        raise ArtifactFormatError(f"{label}: target_modules is not stated; save the LoRA by peft")
    return config


def _check_kind(label: str, values: Mapping[str, Any]) -> None:
    if values.get("peft_type") != "LORA":
        raise ArtifactFormatError(
            f"{label}: peft_type is {values.get('peft_type')!r}; only LORA can be imported; train "
            "a LoRA"
        )
    if values.get("task_type") not in (None, "CAUSAL_LM"):
        raise ArtifactFormatError(
            f"{label}: task_type is {values['task_type']!r}; only CAUSAL_LM can be imported; train "
            "the LoRA for text generation"
        )


def _check_initialisation(label: str, values: Mapping[str, Any]) -> None:
    chosen = values.get("init_lora_weights", True)
    known = isinstance(chosen, bool | str | None)
    if not known or (chosen.lower() if isinstance(chosen, str) else chosen) not in _KEEPS_BASE:
        raise ArtifactFormatError(
            f"{label}: init_lora_weights is {chosen!r}, which changes the base weights; "
            f"{_CONVERSION}"
        )


def _check_patterns(label: str, config: LoraConfig) -> None:
    patterns = [*config.rank_pattern, *config.alpha_pattern, *config.layers_patterns]
    patterns += [one for one in (config.targets, config.excluded) if isinstance(one, str)]
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as err:
            raise ArtifactFormatError(
                f"{label}: {pattern!r} is no regular expression: {err}; correct the pattern"
            ) from err


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in ({}, [], "")


def _names(targets: str | tuple[str, ...], path: str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, path) is not None
    return any(path == one or path.endswith(f".{one}") for one in targets)


def _first_match(patterns: Mapping[str, float], path: str, default: float) -> float:
    """Return the value of the first pattern that matches the end of ``path``."""
    found = (v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", path))
    return next(found, default)


def _value(
    label: str,
    values: Mapping[str, Any],
    name: str,
    default: Any,
    allowed: Callable[[Any], bool],
) -> Any:
    value = values.get(name)
    if value is None:
        return default
    if not allowed(value):
        raise ArtifactFormatError(
            f"{label}: {name} is {str(value)[:60]!r}, which is no value of this option; save the "
            "LoRA by peft"
        )
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and math.isfinite(value)


def _is_modules(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(map(_is_text, value)))


def _is_layers(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, int) and not isinstance(item, bool) for item in items)


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and _is_layers(value) and all(item >= 0 for item in value)


def _pattern_of(allowed: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(allowed, value.values()))


def _texts(value: str | Sequence[str]) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else tuple(value)


def _listed(value: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(value)


def _indices(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)
