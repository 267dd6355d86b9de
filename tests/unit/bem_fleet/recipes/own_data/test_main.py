"""Training and comparison command on the tiny model: counts, estimate, adapter, card and report."""

import json
from pathlib import Path

import pytest
from bem.adapters.artifact import read_adapter
from bem.testing import tiny_backbone
from bem_fleet.recipes.own_data import __main__ as command
from bem_fleet.recipes.own_data import comparison

COLOURS = ("red", "blue", "green")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "load_backbone", lambda *_, **__: tiny_backbone())
    monkeypatch.setattr(comparison, "load_backbone", lambda *_, **__: tiny_backbone())
    monkeypatch.chdir(tmp_path)


def write(name: str, numbers: range) -> None:
    """Write instructions with the colour of a number."""
    lines = [
        json.dumps({"prompt": f"colour {n}", "response": COLOURS[n % 3]}) + "\n" for n in numbers
    ]
    Path(name).write_text("".join(lines))


def words(*more: str) -> list[str]:
    """Return the words of a training command."""
    shared = ["train", "--data", "train.jsonl", "--out", "adapters/colours", "--cache", "cache"]
    return [*shared, "--rank", "4", "--batch", "4", "--epochs", "3", *more]


def test_data_become_an_adapter_with_card_and_report(capsys: pytest.CaptureFixture[str]) -> None:
    """Counts and estimate come first; the report has intervals; a second run resumes."""
    write("train.jsonl", range(24))
    write("eval.jsonl", range(100, 112))
    given = words("--eval", "eval.jsonl", "--targets", "o_proj", "--report", "r.json")
    assert command.main(given) == command.DONE
    out = capsys.readouterr().out

    card = read_adapter(Path("adapters/colours"), base_digest=tiny_backbone().digest).card
    report = json.loads(Path("r.json").read_text())
    assert out.index("train.jsonl: 24 items") < out.index("estimate: about")
    assert "3 epochs" in out
    assert (card.name, card.kinds, card.rank) == ("colours", ["o_proj"], 4)
    assert card.command == "fleetctl " + " ".join(given)
    assert report["n_items"] == 12
    assert set(report["metrics"]) == set(comparison.METRICS)
    gain = report["metrics"]["logprob_per_token"]
    assert gain["ci_low"] < gain["estimate"] < gain["ci_high"]
    assert gain["estimate"] == pytest.approx(gain["model"] - gain["baseline"], abs=1e-5)
    assert card.metrics["own_data"]["metrics"] == report["metrics"]
    assert "| logprob_per_token |" in Path("r.md").read_text()

    assert command.main(given) == command.DONE
    assert "resuming the run" in capsys.readouterr().out
    again = ["evaluate", "--data", "eval.jsonl", "--model", "adapters/colours", "--cache", "cache"]
    assert command.main(again) == command.DONE
    assert json.loads(Path("colours.report.json").read_text())["metrics"] == report["metrics"]


def test_check_trains_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Counts, what is left out, and the estimate."""
    write("train.jsonl", range(12))
    with Path("train.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "x" * 300, "response": "long"}) + "\n")
    assert command.main(words("--check", "--max-tokens", "200")) == command.DONE
    out = capsys.readouterr().out

    assert "12 items" in out
    assert "1 longer than --max-tokens left out (lines 13)" in out
    assert "estimate: about" in out
    assert not Path("adapters").exists()


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--out", "adapters/a b"], "out: 'a b' is no adapter name"),
        (["--max-tokens", "3"], "every example has more than 3 tokens"),
        (["--data", "none.jsonl"], "No such file"),
        (["--eval", "train.jsonl"], "an evaluation item must be new"),
        (["--eval", "few.jsonl"], "few.jsonl: 9 items; an interval needs at least 10"),
    ],
)
def test_refusals_are_one_message(
    more: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, before anything is trained."""
    write("train.jsonl", range(12))
    write("few.jsonl", range(100, 109))
    assert command.main(words(*more)) == command.REFUSED

    assert problem in capsys.readouterr().err
    assert not Path("adapters").exists()


def test_targets_that_cannot_be_trained_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong arguments are exit code 2."""
    with pytest.raises(SystemExit) as caught:
        command.main(words("--targets", "q_proj,o_proj"))

    assert caught.value.code == 2
    assert "q_proj cannot be trained; o_proj, down_proj can" in capsys.readouterr().err
