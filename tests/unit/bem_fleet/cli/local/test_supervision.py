"""Configuration of supervisord."""

import json
from configparser import RawConfigParser
from pathlib import Path

import pytest
from bem_fleet.cli.local.plan import Plan
from bem_fleet.cli.local.supervision import _quote_value, configuration
from supervisor.datatypes import dict_of_key_value_pairs


def test_configuration_escapes_and_restarts(tmp_path: Path) -> None:
    """A percent sign in a path survives supervisor's own expansion, and what exits is restarted."""
    plan = Plan(run=tmp_path / "50%")
    text = configuration(plan)

    assert "50%%" in text
    assert text.count("autorestart = true") == len(plan.programs())


def test_supervisor_reads_json_as_it_was_written(tmp_path: Path) -> None:
    """The JSON of the missions survives supervisor's parser of environments."""
    plan = Plan(run=tmp_path)
    parser = RawConfigParser()
    parser.read_string(configuration(plan))
    environment = dict_of_key_value_pairs(parser["program:gateway"]["environment"])

    assert json.loads(environment["BEM_GATEWAY_MISSIONS"])["router"] == plan.address("router")


def test_value_with_both_quotes_is_refused() -> None:
    """Supervisor's parser knows no escape character."""
    with pytest.raises(ValueError, match="both kinds of quotes"):
        _quote_value("\"'")
