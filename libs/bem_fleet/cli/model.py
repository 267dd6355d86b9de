"""``fleetctl model``: base models before they are deployed."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from bem.errors import BemError

from bem_fleet.checkout import ROOT
from bem_fleet.cli.application import NO, YES

MODELS = ROOT / ".cache/models"
_SOURCE = typer.Argument(metavar="MODEL", help="model folder, .gguf file or hub name")
_CACHE = typer.Option(help="folder of prepared models")

app = typer.Typer(
    no_args_is_help=True,
    help="Check and prepare base models. Exit code 0 if the model is served, 1 if it is refused.",
)


@app.command("check")
def check(  # noqa: PLR0917 - each is an option of the command
    source: Annotated[str, _SOURCE],
    weights: Annotated[
        Literal["auto", "fp32", "bf16", "int8", "int4"],
        typer.Option(envvar="BEM_ROUTER_WEIGHTS", help="weight format; auto measures"),
    ] = "auto",
    kernels: Annotated[
        Literal["auto", "native", "torch"],
        typer.Option(envvar="BEM_ROUTER_KERNELS", help="kernels of int8 and int4"),
    ] = "auto",
    context_tokens: Annotated[
        int | None, typer.Option(min=16, help="limit of prompt and output; the model's without it")
    ] = None,
    safety: Annotated[Path, typer.Option(help="folder of the safety adapter")] = ROOT
    / "adapters/safety",
    cache: Annotated[Path, _CACHE] = MODELS,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> int:
    """Print what a mission would serve of a base model, how fast, and in how much memory.

    The model is loaded, compared with transformers and timed on this machine, with 1 and with 16
    requests at once. A model that is not served exactly is refused in one line.
    """
    from bem_fleet.cli import model_check  # noqa: PLC0415 - loads torch

    options = model_check.ModelOptions(cache, safety, weights, kernels, context_tokens)
    try:
        report = model_check.check_model(source, options)
    except BemError as err:
        print(f"fleetctl: {err}", file=sys.stderr)
        return NO
    print(report.as_json() if as_json else report.as_table())
    return YES


@app.command("convert")
def convert(
    source: Annotated[str, _SOURCE],
    out: Annotated[Path, typer.Option(help="folder to write")],
    chat_template: Annotated[
        Path | None, typer.Option(help="Jinja file; in place of the model's own template")
    ] = None,
    cache: Annotated[Path, _CACHE] = MODELS,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> int:
    """Write a base model as a folder of safetensors, with a chat template if it lacks one.

    The template becomes a part of the model: adapters are trained and served with it.
    """
    from bem.model_folder import write_model_folder  # noqa: PLC0415 - loads torch

    try:
        write_model_folder(source, out, cache=cache, chat_template=chat_template)
    except BemError as err:
        print(f"fleetctl: {err}", file=sys.stderr)
        return NO
    hint = f"{out}: check it with `fleetctl model check {out}`"
    print(json.dumps({"folder": str(out)}) if as_json else hint)
    return YES
