"""Options of a PEFT configuration: an allow-list, and patterns as peft matches them."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from bem.adapters.peft_config import parse_config
from bem.errors import ArtifactFormatError
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

BASE: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["o_proj"]}
PATHS = [
    f"model.layers.{layer}.{name}"
    for layer in (0, 1, 2, 11, 12)
    for name in ("self_attn.o_proj", "mlp.down_proj", "mlp.experts.1.down_proj", "self_attn.q_proj")
] + ["lm_head", "model.embed_tokens"]


def test_configuration_of_peft_itself_is_understood() -> None:
    """Every option of the installed peft is known or switched off by default."""
    values = LoraConfig(target_modules=["o_proj"], task_type="CAUSAL_LM").to_dict()
    values["target_modules"] = sorted(values["target_modules"])
    config = parse_config("x", values)

    assert (config.rank, config.alpha, config.targets) == (8, 8, ("o_proj",))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_spectral_scaling", True),
        ("router_config", {"experts": 4}),
        ("group_sizes", [2, 2]),
        ("norm_kind", "l2"),
        ("extra_rank", 1),
    ],
)
def test_unknown_option_that_is_on_is_refused_by_name(name: str, value: Any) -> None:
    """New releases of peft add options; one that is off changes nothing."""
    with pytest.raises(ArtifactFormatError, match=f"x: {name} is not supported"):
        parse_config("x", BASE | {name: value})
    switched_off: tuple[Any, ...] = (None, False, {}, [], "")
    for off in switched_off:
        assert parse_config("x", BASE | {name: off}).rank == 4


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'"),
        ({"r": 0}, "r is '0'"),
        ({"r": "8"}, "r is '8'"),
        ({"r": True}, "r is 'True'"),
        ({"lora_alpha": float("nan")}, "lora_alpha is 'nan'"),
        ({"rank_pattern": {"o_proj": 0.5}}, "rank_pattern"),
        ({"alpha_pattern": ["o_proj"]}, "alpha_pattern"),
        ({"alpha_pattern": {"(": 3}}, r"'\(' is no regular expression"),
        ({"target_modules": 5}, "target_modules is '5'"),
        ({"target_modules": None}, "target_modules is not stated"),
        ({"layers_to_transform": ["1"]}, "layers_to_transform"),
        ({"init_lora_weights": "lora_ga"}, "lora_ga.*changes the base"),
        ({"init_lora_weights": "mica"}, "mica.*changes the base"),
        ({"init_lora_weights": ["gaussian"]}, "gaussian"),
        ({"corda_config": {"corda_method": "ipm"}}, "corda_config"),
        ({"loftq_config": {"loftq_bits": 4}}, "loftq_config .LoftQ changes"),
        ({"kasa_config": {"beta": 0.1}}, "kasa_config .KaSA"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"use_qalora": True}, "use_qalora"),
    ],
)
def test_wrong_and_unsupported_values_are_named(values: dict[str, Any], named: str) -> None:
    """One line, with the folder and the option."""
    with pytest.raises(ArtifactFormatError, match=named):
        parse_config("x", BASE | values)


ENDS = [
    ["o_proj"],
    ["down_proj", "model.layers.1.self_attn.o_proj"],
    ["proj"],
    ["layers.1.mlp.down_proj"],
]
EXPRESSIONS = [r".*\.1\.(self_attn|mlp)\..*", "o_proj", r"model\.layers\.\d\..*proj"]
EXCLUDED = [None, ["mlp.down_proj"], r".*\.12\..*"]
# The installed peft refuses layer numbers beside a regular expression.
COMBINATIONS = [
    *itertools.product(ENDS, EXCLUDED, [None, [], 1, [1, 12]], [None, [], "layers", ["experts"]]),
    *itertools.product(EXPRESSIONS, EXCLUDED, [None], [None]),
]


def test_modules_are_those_of_peft() -> None:
    """Names, ends of names, regular expressions, layer numbers and exclusions agree everywhere."""
    names = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    for values in COMBINATIONS:
        chosen = dict(zip(names, values, strict=True))
        config = parse_config("x", BASE | chosen)
        reference = SimpleNamespace(**chosen, target_parameters=None, modules_to_save=None)
        expected = {p: bool(check_target_module_exists(reference, p)) for p in PATHS}

        assert {p: config.adapts(p) for p in PATHS} == expected, chosen


@pytest.mark.parametrize(
    "patterns",
    list(
        itertools.permutations(
            [("o_proj|q_proj", 2), ("down_proj", 3), (r"layers\.1\..*", 5), ("1.mlp.down_proj", 7)],
            3,
        )
    ),
)
def test_first_pattern_that_matches_wins_as_in_peft(patterns: list[tuple[str, int]]) -> None:
    """A pattern is anchored at the end, and its alternatives are one group."""
    config = parse_config("x", BASE | {"alpha_pattern": dict(patterns), "r": 1})
    expected = {
        path: dict(patterns).get(get_pattern_key(dict(patterns).keys(), path), 8) for path in PATHS
    }

    assert {path: config.scale_of(path) for path in PATHS} == expected
