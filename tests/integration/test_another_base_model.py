"""Guide "another base model": its commands on a tiny Gemma 3, and the real one exactly.

The guide's commands run as they are written, on random weights of the same architecture, because
training takes minutes. The real Gemma 3 270M is fetched and de-quantised once into the cache of the
checkout, a minute on two cores, and one text is compared.
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
from bem.model_folder import write_model_folder
from bem.prompt_encoding import PromptEncoder
from bem.safety.artifact import SAFETY_FORMAT
from bem_fleet.cli.fleetctl import app
from typer.main import get_command

from tests.support.family_models import VARIANTS
from tests.support.requirements import unavailable
from tests.support.tiny_models import save_folder, tiny_model
from tools.fetch_gemma import FILE, FOLDER, fetch

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "another_base_model.md"
OWN_DATA = ROOT / "docs" / "own_data.md"
BLOCKS = re.compile(r"(?ms)^```(\w*)\n(.*?)^```")
SOURCE, MODEL = f".cache/gemma/{FILE}", ".cache/gemma/gemma-3-270m"
TOKENS = 528  # more than the sliding window of 512


def blocks(page: Path, kind: str) -> list[str]:
    """Return the blocks of one language of a page."""
    return [text for found, text in BLOCKS.findall(page.read_text()) if found == kind]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_commands_lead_from_a_base_model_to_its_adapters(tmp_path: Path) -> None:
    """Convert, check, train and the safety adapter, as the guide writes them."""
    kind, changes = VARIANTS["gemma3"]
    model = tiny_model(kind, **changes, max_position_embeddings=2048)
    tiny = save_folder(tmp_path / "tiny", model)
    (tiny / "chat_template.jinja").unlink()
    fetching, template, *commands = blocks(PAGE, "bash")
    assert fetching.strip() == "python -m tools.fetch_gemma"
    assert len(commands) == 4
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'libs'}:{ROOT}",
    }
    # The byte tokenizer has none of Gemma's control tokens, and its texts no first one.
    template = template.replace("{{ bos_token }}", "")
    own = str(tmp_path / "gemma")
    for command in [blocks(OWN_DATA, "bash")[0], template, *commands]:
        text = command.replace(SOURCE, str(tiny)).replace(".cache/gemma", own)
        text = text.replace("--steps 40", "--steps 2")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    digest = load_backbone(f"{own}/gemma-3-270m", cache=tmp_path / "cache").digest
    adapter = read_adapter_card(Path(own) / "adapters" / "gemma-tickets")
    safety = SAFETY_FORMAT.read_card(Path(own) / "adapters" / "safety")

    assert adapter.base_digest == safety.base_digest == digest
    assert adapter.metrics["own_data"]["n_items"] == 30
    assert set(safety.metrics["development"]) == {"harmful", "harmless"}


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
        source = fetch(FOLDER)
    except RuntimeError as err:
        unavailable(f"Gemma 3 270M: {err}")
    folder = ROOT / MODEL
    if not folder.exists():
        page = blocks(PAGE, "bash")[1]
        template = FOLDER / "gemma.jinja"
        template.write_text(page.split("<<'EOF'\n")[1].split("EOF\n")[0])
        write_model_folder(
            str(source), folder, cache=ROOT / ".cache/models", chat_template=template
        )
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
