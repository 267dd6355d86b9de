"""Outputs under a thousand generated JSON Schemas: each is complete and valid."""

import json
from pathlib import Path

import jsonschema
import pytest
from bem.engine import GenerationRequest, OutputForm, Sampling, stream
from bem.testing import tiny_backbone

from tests.support.generated_schemas import generate_schema
from tests.unit.bem.engine.engines import encode, make_engine, write_adapters

SCHEMAS = 1000
ADAPTERS = (None, "alpha", "beta")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_output_is_valid_under_its_schema(tmp_path: Path) -> None:
    """1,000 of 1,000, in batches of 16 that mix schemas and adapters, at temperature 1."""
    engine = make_engine(tiny_backbone(), write_adapters(tmp_path), rows=16, prefix_bytes=0)
    engine.start()
    schemas = [generate_schema(seed) for seed in range(SCHEMAS)]
    requests = [
        GenerationRequest(
            encode("answer"),
            Sampling(seed=seed),
            max_tokens=480,
            adapter=ADAPTERS[seed % 3],
            form=OutputForm("json_schema", json.dumps(schema)),
        )
        for seed, schema in enumerate(schemas)
    ]
    unfinished, lengths = [], []
    for seed, completion in stream(engine, requests):
        if completion.finish != "stop":
            unfinished.append(seed)
            continue
        lengths.append(completion.completion_tokens)
        jsonschema.Draft202012Validator(schemas[seed]).validate(json.loads(completion.text))
    engine.close(drain=True)

    assert not unfinished
    assert len(lengths) == SCHEMAS
    assert len({json.dumps(schema) for schema in schemas}) > SCHEMAS * 0.9
    assert max(lengths) > 50
