"""kubectl plug-in: canaries, explanations of gates, and an operator's key and certificate.

Nothing here can do what plain kubectl cannot: every command prints the kubectl that it runs, and
returns its exit code.
"""

import base64
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from fleet.certificates import AUTHORITY, CERTIFICATE, KEY
from fleet.files import make_private_folder, private_umask, write_atomic

from bem_fleet.cli.application import NO, YES, run_application
from bem_fleet.cli.canary import COMMANDS, specification
from bem_fleet.cli.canary_explanation import explanation_from_resource, format_explanation
from bem_fleet.cli.canary_table import format_canary, format_history, from_resource
from bem_fleet.services.orchestrator.canary.machine import CanaryPhase
from bem_fleet.services.orchestrator.canary.spec import canary_digest

ANNOTATION = "fleet.bem.dev/canary"
NOT_JUDGED = (
    "The quality of its answers is not judged: there are no probes. It is promoted if it fails, "
    "withholds and delays no more than stable; give --probes to compare answers too."
)
Namespace = Annotated[str, typer.Option("-n", "--namespace", help="namespace of the mission")]

app = typer.Typer(no_args_is_help=True, help="Start, steer and explain canaries with kubectl.")
canaries = typer.Typer(no_args_is_help=True, help="Start and steer canaries.")
gate = typer.Typer(no_args_is_help=True, help="Explain the analysis of a canary.")
app.add_typer(canaries, name="canary")
app.add_typer(gate, name="gate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns kubectl's exit code."""
    return run_application(app, "kubectl bem", arguments)


@app.callback()
def _options(ctx: typer.Context, namespace: Namespace = "") -> None:
    ctx.obj = namespace


@canaries.command("start")
def start(
    ctx: typer.Context,
    mission: str,
    *,
    image: Annotated[str, typer.Option(help="image of a second Deployment")] = "",
    model: Annotated[str, typer.Option(help="another adapter of the same pods")] = "",
    step: Annotated[list[str] | None, typer.Option(help="weight:seconds; repeatable")] = None,
    shadow: Annotated[int | None, typer.Option(help="percent of mirrored requests")] = None,
    attempt: Annotated[
        int | None, typer.Option(help="number to raise to test the same candidate again")
    ] = None,
    spec: Annotated[
        Path | None, typer.Option(help="YAML of spec.canary: analysis, probes and margins")
    ] = None,
    probes: Annotated[
        Path | None, typer.Option(help="YAML list of probes: prompt, and answers it may have")
    ] = None,
    replace: Annotated[bool, typer.Option(help="roll a canary in progress back first")] = False,
    namespace: Namespace = "",
) -> int:
    """Start a canary of an image or an adapter, and print what exactly runs."""
    numbers = {"shadow": shadow, "attempt": attempt}
    canary = specification(spec, model=model, image=image, steps=step or [], **numbers)
    _check_candidate(canary)
    if probes:
        canary["analysis"] = {**canary.get("analysis", {}), "probes": read_probes(probes)}
    where = namespace or ctx.obj
    read = _kubectl(where, "get", "mission", mission, "-o", "json")
    print(f"$ {shlex.join(read)}", file=sys.stderr)
    done = subprocess.run(read, check=False, stdout=subprocess.PIPE)
    if done.returncode:
        return done.returncode
    current = json.loads(done.stdout)
    if reason := refusal(current, canary, replace=replace):
        print(f"{mission}: {reason}", file=sys.stderr)
        return NO
    patch = json.dumps(start_patch(current, canary))
    words = ("patch", "mission", mission, "--type=merge", "-p", patch)
    if (code := _run(_kubectl(where, *words))) == YES:
        _print_started(canary)
    return code


def _check_candidate(canary: Mapping[str, Any]) -> None:
    if bool(canary.get("image")) == bool(canary.get("model")):
        raise typer.BadParameter("image, model: give exactly one of --image and --model")


def _print_started(canary: Mapping[str, Any]) -> None:
    print(yaml.safe_dump({"canary": dict(canary)}, sort_keys=False).rstrip())
    if not canary.get("analysis", {}).get("probes"):
        print(NOT_JUDGED, file=sys.stderr)


def _add_steering(command: str) -> None:
    @canaries.command(command, help=f"Annotate the mission: {command} its canary.")
    def steer(ctx: typer.Context, mission: str, namespace: Namespace = "") -> int:
        note = f"{ANNOTATION}={command}"
        words = ("annotate", "mission", mission, note, "--overwrite")
        return _run(_kubectl(namespace or ctx.obj, *words))


for _command in COMMANDS:
    _add_steering(_command)


@canaries.command("status")
def status(ctx: typer.Context, mission: str, namespace: Namespace = "") -> int:
    """Print a mission's canary."""
    return _show(namespace or ctx.obj, mission, _status_text)


@canaries.command("history")
def history(ctx: typer.Context, mission: str, namespace: Namespace = "") -> int:
    """Print the phase changes of a mission's canary."""
    return _show(namespace or ctx.obj, mission, format_history)


@gate.command("explain")
def explain(ctx: typer.Context, mission: str, namespace: Namespace = "") -> int:
    """Print what the analysis has shown, its terms, and after how many pairs harm is found."""
    return _show(namespace or ctx.obj, mission, _explanation_text)


@app.command("key")
def key(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="operator, user, or a service")] = "operator",
    *,
    release: Annotated[str, typer.Option(help="name of the release")] = "fleet",
    secret: Annotated[str, typer.Option(help="Secret; <release>-access if empty")] = "",
    namespace: Namespace = "",
) -> int:
    """Print an API key of the release's Secret, for `FLEETCTL_KEY_FILE` or a header."""
    template = f'go-template={{{{index .data "{name}.key" | base64decode}}}}{{{{"\\n"}}}}'
    words = ("get", "secret", secret or f"{release}-access", "-o", template)
    return _run(_kubectl(namespace or ctx.obj, *words))


@app.command("certificate")
def certificate(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="new or own folder of the files")],
    *,
    release: Annotated[str, typer.Option(help="name of the release")] = "fleet",
    secret: Annotated[str, typer.Option(help="Secret; <release>-client-tls if empty")] = "",
    namespace: Namespace = "",
) -> int:
    """Write the clients' certificate into a folder, for `FLEETCTL_TLS_FOLDER`."""
    words = ("get", "secret", secret or f"{release}-client-tls", "-o", "json")
    command = _kubectl(namespace or ctx.obj, *words)
    print(f"$ {shlex.join(command)}", file=sys.stderr)
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    if done.returncode == 0:
        data = json.loads(done.stdout)["data"]
        make_private_folder(folder)
        with private_umask():
            for name in (CERTIFICATE, KEY, AUTHORITY):
                write_atomic(folder / name, base64.b64decode(data[name]))
    return done.returncode


def start_patch(mission: Mapping[str, Any], canary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merge patch that makes ``canary`` all of ``spec.canary``.

    A merge patch keeps what it does not name, so the fields of an earlier canary are named as null.
    The version that was read is part of it: a change meanwhile is a conflict.
    """
    old = (mission.get("spec") or {}).get("canary") or {}
    version = {"resourceVersion": mission["metadata"]["resourceVersion"]}
    return {"metadata": version, "spec": {"canary": {**dict.fromkeys(old), **canary}}}


def refusal(mission: Mapping[str, Any], canary: Mapping[str, Any], *, replace: bool) -> str:
    """Return why a canary would not start as it is asked for; empty if it would.

    Args:
        mission: The Mission object as kubectl prints it.
        canary: Content of ``spec.canary`` that is asked for.
        replace: Whether a canary in progress may be rolled back.
    """
    now = (mission.get("status") or {}).get("canary") or {}
    if now.get("id") == canary_digest(canary):
        return f"the same canary is {now.get('phase')}; raise --attempt to try it again"
    if now and not CanaryPhase(now["phase"]).is_final and not replace:
        what = now.get("image") or now.get("model")
        return f"a canary of {what} is in progress ({now['phase']}); abort it, or give --replace"
    return ""


def read_probes(file: Path) -> list[dict[str, Any]]:
    """Read a YAML list of probes.

    Raises:
        BadParameter: The file is no list of mappings with ``prompt`` and ``answers``.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as err:
        raise typer.BadParameter(f"probes: {file} is no YAML: {err}") from err
    good = isinstance(content, list) and all(
        isinstance(one, Mapping) and {"prompt", "answers"} == set(one) for one in content
    )
    if not good:
        raise typer.BadParameter(f"probes: {file} is no list of prompt and answers; write one")
    return [dict(one) for one in content]


def _status_text(mission: Mapping[str, Any]) -> str:
    return format_canary(mission["metadata"]["name"], from_resource(mission))


def _explanation_text(mission: Mapping[str, Any]) -> str:
    return format_explanation(explanation_from_resource(mission))


def _kubectl(namespace: str, *words: str) -> list[str]:
    return ["kubectl", *(["--namespace", namespace] if namespace else []), *words]


def _run(command: list[str]) -> int:
    print(f"$ {shlex.join(command)}", file=sys.stderr)
    return subprocess.run(command, check=False).returncode


def _show(namespace: str, mission: str, text: Callable[[Mapping[str, Any]], str]) -> int:
    command = _kubectl(namespace, "get", "mission", mission, "-o", "json")
    print(f"$ {shlex.join(command)}", file=sys.stderr)
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    if done.returncode == 0:
        print(text(json.loads(done.stdout)))
    return done.returncode
