"""Valid requests of the RPCs and routes, from which fuzzing starts.

A random message seldom gets past the first check of a method with many fields. Half of the inputs
are therefore a valid request with one or two fields changed.
"""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

NAME = "fuzz"
"""Name of what an example creates; ``renamed`` makes it unique."""

_CHAT = {"messages": [{"role": "user", "content": "Name three rivers."}]}
_GENERATE = {
    "chat": _CHAT,
    "sampling": {"temperature": 0, "top_p": 0.9, "seed": 3, "logprobs": 2},
    "max_tokens": 4,
}
_PARAMETERS = {"max_tokens": {"int64_param": 4}, "temperature": {"double_param": 0.0}}
_INFER = {
    "model_name": "tiny",
    "id": "1",
    "parameters": _PARAMETERS,
    "inputs": [
        {
            "name": "text_input",
            "datatype": "BYTES",
            "shape": [1],
            "contents": {"bytes_contents": ["aGVsbG8="]},
        }
    ],
    "outputs": [{"name": "text_output"}],
}
_LINEAGE = {
    "mission_digest": "a" * 64,
    "baseline_digest": "b" * 64,
    "data_digest": "c" * 64,
    "command": "fuzz",
}
_MISSION, _BASELINE = [1.0, 0.0, 1.0] * 12, [0.0, 0.0, 1.0] * 12
_SCORES = {
    "metric": "exact_match",
    "mission": {"seeds": 3, "values": _MISSION},
    "baseline": {"seeds": 3, "values": _BASELINE},
}
_ROWS = {"mission": [_MISSION, _BASELINE, _MISSION], "baseline": [_BASELINE] * 3}
_HEAD = {"claim": "fuzz", "statistic": "STATISTIC_DIFFERENCE", "lineage": _LINEAGE}
_SPEC = {
    "id": "fuzz",
    "metrics": ["exact_match"],
    "statistic": "difference",
    "direction": "higher",
    "target": 0.01,
    "margin": 0.0,
    "min_items": 2,
    "min_seeds": 1,
}
_GATE_SPEC = {
    **_SPEC,
    "statistic": "STATISTIC_DIFFERENCE",
    "direction": "DIRECTION_HIGHER",
}

_SHAPE = {"metric": "exact_match", "seeds": 3, "items": 12, "has_baseline": True}
_CHUNKS = [
    {"chunk": {"metric": "exact_match", "side": "SIDE_MISSION", "values": _MISSION}},
    {"chunk": {"metric": "exact_match", "side": "SIDE_BASELINE", "values": _BASELINE}},
]

MESSAGES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "/bemfleet.router.v1.RouterService/Generate": [
        _GENERATE,
        {"prompt": "One, two,", "max_tokens": 3, "stop": ["x"]},
    ],
    "/bemfleet.router.v1.RouterService/Complete": [{"request": _GENERATE}],
    "/inference.GRPCInferenceService/ModelInfer": [_INFER],
    "/inference.GRPCInferenceService/ModelStreamInfer": [_INFER],
    "/inference.GRPCInferenceService/ModelMetadata": [{"name": "tiny"}],
    "/inference.GRPCInferenceService/ModelConfig": [{"name": "tiny"}],
    "/inference.GRPCInferenceService/ModelReady": [{"name": "tiny"}],
    "/bemfleet.mission.v1.MissionService/Probe": [{"prompt": "hello", "max_tokens": 2}],
    "/bemfleet.mission.v1.MissionService/LoadAdapter": [{"name": "alpha"}],
    "/bemfleet.safety.v1.SafetyService/Check": [
        {"text": "hello there", "side": "SIDE_RESPONSE", "prompt": "hi"}
    ],
    "/bemfleet.safety.v1.SafetyService/Score": [{"text": "hello", "side": "SIDE_REQUEST"}],
    "/bemfleet.safety.v1.SafetyService/SetStrength": [{"tenant": "fuzz", "value": 0.5}],
    "/bemfleet.validation.v1.ValidationService/Compare": [{"head": _HEAD, "scores": _SCORES}],
    "/bemfleet.validation.v1.ValidationService/Gate": [
        {"head": {"claim": "fuzz", "spec": _GATE_SPEC, "lineage": _LINEAGE}, "scores": [_SCORES]}
    ],
    "/bemfleet.validation.v1.ValidationService/CompareStream": [
        {"head": {"compare": _HEAD, "shape": _SHAPE}},
        *_CHUNKS,
    ],
    "/bemfleet.validation.v1.ValidationService/GateStream": [
        {
            "head": {
                "gate": {"claim": "fuzz", "spec": _GATE_SPEC, "lineage": _LINEAGE},
                "shapes": [_SHAPE],
            }
        },
        *_CHUNKS,
    ],
    "/bemfleet.validation.v1.ValidationService/AnalyzeCanary": [
        {"canary_id": "fuzz", "terms": {"alpha": 0.05, "max_pairs": 100}}
    ],
    "/bemfleet.validation.v1.ValidationService/Correct": [
        {"given": [{"name": "a", "p": 0.01}, {"name": "b", "p": 0.2}], "alpha": 0.05}
    ],
    "/bemfleet.validation.v1.ValidationService/ListClaims": [{}],
    "/bemfleet.fleet.v1.FleetService/GetMission": [{"name": "router"}],
    "/bemfleet.fleet.v1.FleetService/StartCanary": [
        {"name": "router", "canary": {"model": "alpha", "steps": [{"weight": 10}]}}
    ],
    "/bemfleet.fleet.v1.FleetService/SteerCanary": [
        {"name": "router", "command": "CANARY_COMMAND_ABORT"}
    ],
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": [{"list_services": ""}],
}
"""Valid requests by call path, as protobuf's JSON with the proto's field names; of a method that
streams requests, the messages of one call."""

_OPENAI = {
    "model": "tiny",
    "max_tokens": 4,
    "temperature": 0.5,
    "seed": 1,
    "n": 1,
    "stop": ["x"],
    "logit_bias": {"5": -1},
}
BODIES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "/v1/chat/completions": [
        {**_OPENAI, **_CHAT, "logprobs": True, "top_logprobs": 2},
        {**_CHAT, "model": "tiny", "stream": True, "stream_options": {"include_usage": True}},
        {
            "model": "tiny",
            "max_tokens": 2,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                {"role": "assistant", "content": "hello", "refusal": None},
                {"role": "user", "content": "again"},
            ],
        },
    ],
    "/v1/completions": [
        {**_OPENAI, "prompt": "One, two,", "logprobs": 2, "echo": False},
        {"model": "tiny", "prompt": ["a", "b"], "max_tokens": 2, "stream": True},
    ],
    "/v1/responses": [
        {"model": "tiny", "input": "Name a city.", "max_output_tokens": 16, "temperature": 0},
        {
            "model": "tiny",
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
            "stream": True,
            "store": False,
            "previous_response_id": "resp_1",
        },
    ],
    "/v1/embeddings": [
        {"model": "tiny", "input": "One, two,", "encoding_format": "float"},
        {"model": "tiny", "input": ["a", "b"], "dimensions": 8, "encoding_format": "base64"},
    ],
    "/tokenize": [
        {"model": "tiny", "prompt": "One, two,", "return_token_strs": True},
        {"model": "tiny", **_CHAT, "add_generation_prompt": True},
    ],
    "/detokenize": [{"model": "tiny", "tokens": [72, 105]}],
    "/v1/feedback": [
        {"completion_id": "chatcmpl-1", "rating": "up", "tags": ["a"], "consent": True},
        {"completion_id": "chatcmpl-1", "correction": "x", "comment": "y", "session": "s"},
    ],
    "/v1/memory/ingest": [
        {"session": "fuzz", "document": "a", "text": "Ann lives in Rome.", "end": True},
    ],
    "/v1/memory/query": [
        {"session": "fuzz", "question": "Where does Ann live?", "max_tokens": 2, "hops": 1},
    ],
    "/v1/memory/coverage": [{"session": "fuzz", "after": 0, "limit": 5}],
    "/v1/memory/sessions": [{}],
    "/v1/memory/forget": [{"session": "fuzz", "document": "a"}],
    "/v1/validation/compare": [
        {"claim": "fuzz", "metric": "exact_match", "lineage": _LINEAGE, **_ROWS},
    ],
    "/v1/validation/gate": [
        {
            "claim": "fuzz",
            "gate_id": "A.em_f1",
            "scores": {"exact_match": _ROWS, "f1": _ROWS},
            "lineage": _LINEAGE,
        },
        {"claim": "fuzz", "spec": _SPEC, "scores": {"exact_match": _ROWS}, "lineage": _LINEAGE},
    ],
    "/v1/validation/families": [
        {
            "family": "fuzz",
            "comparisons": [{"member": "quality", "metric": "f1"}],
            "gates": [_SPEC],
        },
    ],
    "/v1/validation/correct": [
        {"p_values": {"a": 0.01, "b": 0.2}, "with_family": True, "alpha": 0.05},
    ],
    "/v1/load_lora_adapter": [{"lora_name": "alpha", "lora_path": "alpha"}],
    "/v1/unload_lora_adapter": [{"lora_name": "alpha"}],
    "/v1/fleet/canaries/{mission}": [
        {"model": "alpha", "shadow": 5, "steps": [{"weight": 10, "seconds": 60}], "attempt": 1},
    ],
    "/v1/fleet/canaries/{mission}/{command}": [{}],
    "/v1/fleet/safety/{mission}": [{"value": 0.5, "floor": 0.1, "tenant": "fuzz"}],
    "/v1/missions/{mission}/{method}": [
        _GENERATE,
        {"model": "tiny", "prompt": "x"},
    ],
}
"""Valid JSON bodies by route."""

PATH_VALUES: Mapping[str, Sequence[str]] = {
    "mission": ("router", "none", "%2e%2e", "a%00b", "ü"),
    "command": ("pause", "resume", "abort", "none", "%2e%2e"),
    "method": ("Generate", "Complete", "none", "__init__", "Generate%2f"),
    "name": ("tiny", "passage-qa", "none", "%ff", "a%0ab"),
}
"""Values of path parameters."""


def renamed(example: Mapping[str, Any], random_: random.Random) -> dict[str, Any]:
    """Return a copy of an example that creates something new: a claim is recorded once."""
    name = f'"{NAME}-{random_.randrange(2**40)}"'
    copy: dict[str, Any] = json.loads(json.dumps(example).replace(f'"{NAME}"', name))
    return copy
