"""Guide "another base model": its commands run, and the real Gemma 3 270M is served exactly.

The model is fetched and de-quantised once into the cache of the checkout, a minute on two cores;
one text is compared with transformers, and an adapter is trained on a part of the tickets.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bem.adapters.artifact import read_adapter_card
from bem.backbone import Backbone, load_backbone
from bem.engine.decoder import Decoder
from bem.engine.perplexity import TEXT
from bem.engine.shard_leader import open_cache
from bem.prompt_encoding import PromptEncoder
from bem_fleet.cli.fleetctl import app
from typer.main import get_command

from tests.support.requirements import unavailable
from tools.fetch_gemma import FOLDER, fetch

ROOT = Path(__file__).resolve().parents[2]
PAGE, OWN_DATA = ROOT / "docs" / "another_base_model.md", ROOT / "docs" / "own_data.md"
BLOCKS = re.compile(r"(?ms)^```(\w*)\n(.*?)^```")
MODEL = ".cache/gemma/gemma-3-270m"
TOKENS = 528  # more than the sliding window of 512


def blocks(page: Path, kind: str) -> list[str]:
    """Return the blocks of one language of a page."""
    return [text for found, text in BLOCKS.findall(page.read_text()) if found == kind]


def run(commands: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run commands of a page in a folder."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'libs'}:{ROOT}",
    }
    words = ["bash", "-euo", "pipefail", "-c", commands]
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_options_of_the_fleet_exist() -> None:
    """Settings and verbs of what needs a running fleet are those of the router and of fleetctl."""
    (serving,) = [text for text in blocks(PAGE, "") if "fleetctl up" in text]
    settings = (ROOT / "services" / "router" / "README.md").read_text()
    for name in re.findall(r"BEM_\w+", serving):
        assert f"`{name}`" in settings
    for group, verb in re.findall(r"fleetctl (\w+) (\w+)", PAGE.read_text()):
        known = get_command(app).commands  # type: ignore[attr-defined] # a group
        assert verb in getattr(known[group], "commands", {verb: None})


@pytest.fixture(scope="module")
def gemma() -> Backbone:
    """The real model, from the cache of the checkout."""
    try:
        fetch(FOLDER)  # what the page's first command runs
    except RuntimeError as err:
        unavailable(f"Gemma 3 270M: {err}")
    folder = ROOT / MODEL
    if not folder.exists():
        template, convert = blocks(PAGE, "bash")[1:3]
        done = run(template + convert, ROOT)
        # Another worker may have been faster, and then there is nothing to write.
        assert folder.exists(), done.stderr
    return load_backbone(str(folder), cache=ROOT / ".cache/models")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_real_model_computes_what_transformers_computes(gemma: Backbone) -> None:
    """A text beyond the sliding window, in chunks and then token by token, within 1e-4."""
    ids = torch.tensor([PromptEncoder(gemma.tokenizer).encode_text(TEXT.read_text())])
    ids = torch.cat([torch.tensor([[gemma.tokenizer.bos_token_id]]), ids[:, : TOKENS - 1]], 1)
    decoder = Decoder(gemma, None, open_cache(gemma, slots=1, context_tokens=TOKENS))
    with torch.inference_mode():
        expected = gemma.model(ids).logits[0]
        found, at = [], 0
        for size in (256, 264, *[1] * 8):
            plan = decoder.plan([0], [at], size)
            hidden, _ = decoder.lower(ids[:, at : at + size], plan)
            found.append(decoder.logits(decoder.upper(hidden, plan)[0].unsqueeze(1)))
            at += size
        logits = torch.cat(found)

    assert at == TOKENS
    assert float((logits - expected).abs().max()) < 1e-4
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))
    assert gemma.tokenizer.chat_template


def test_the_vocabulary_and_the_template_are_gemmas(gemma: Backbone) -> None:
    """Texts begin with one token, turns have its control tokens, and no text makes one."""
    encoder = PromptEncoder(gemma.tokenizer)
    ids = encoder.encode_chat([{"role": "user", "content": "Hi<end_of_turn>"}])
    names = gemma.tokenizer.convert_ids_to_tokens(ids)

    assert names[:5] == ["<bos>", "<start_of_turn>", "user", "\n", "Hi"]
    assert names.count("<end_of_turn>") == 1
    assert json.dumps(gemma.tokenizer.decode(ids)).count("<bos>") == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_guides_adapter_is_trained(gemma: Backbone, tmp_path: Path) -> None:
    """The page's command, on 24 of the 120 tickets, gives an adapter of this base with a gain."""
    (train,) = [text for text in blocks(PAGE, "bash") if "--data train.jsonl" in text]
    (tickets,) = [text for text in blocks(OWN_DATA, "bash") if "make_tickets.py" in text]
    (tmp_path / ".cache/gemma").mkdir(parents=True)
    (tmp_path / MODEL).symlink_to(ROOT / MODEL)
    made = run(tickets, tmp_path)
    for name, count in (("train", 24), ("eval", 10)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(file.read_text().splitlines()[:count]) + "\n")
    trained = run(train, tmp_path)
    folder = tmp_path / ".cache/gemma/adapters/gemma-tickets"
    card = read_adapter_card(folder)

    assert made.returncode == 0, made.stderr
    assert trained.returncode == 0, trained.stderr
    assert "train.jsonl: 24 items" in trained.stdout
    assert card.rank == 8
    assert card.base_digest == gemma.digest
    assert card.metrics["own_data"]["n_items"] == 10
