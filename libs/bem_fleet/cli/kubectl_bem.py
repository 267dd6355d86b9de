"""``kubectl bem canary start|status|pause|resume|promote|abort|history`` and ``gate explain``.

Nothing here can do what plain kubectl cannot: every command prints the kubectl that it runs.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

ANNOTATION = "fleet.bem.dev/canary"
STEERING = ("pause", "resume", "promote", "abort")


def main(given: Sequence[str] | None = None) -> int:
    """Run one command; returns kubectl's exit status."""
    asked = _parser().parse_args(sys.argv[1:] if given is None else given)
    return int(asked.run(asked))


def kubectl(asked: argparse.Namespace, *arguments: str) -> list[str]:
    """Return the kubectl command."""
    where = ["--namespace", asked.namespace] if asked.namespace else []
    return ["kubectl", *where, *arguments]


def start_patch(asked: argparse.Namespace) -> dict[str, Any]:
    """Return the patch that starts a canary."""
    canary: dict[str, Any] = {"image": asked.image} if asked.image else {"model": asked.model}
    if asked.step:
        canary["steps"] = [read_step(text) for text in asked.step]
    if asked.shadow is not None:
        canary["shadow"] = asked.shadow
    if asked.attempt is not None:
        canary["attempt"] = asked.attempt
    # A key of an earlier canary must not stay beside the new one's.
    return {"spec": {"canary": {"image": None, "model": None, **canary}}}


def table(mission: dict[str, Any]) -> str:
    """Return a mission's canary for people."""
    canary = (mission.get("status") or {}).get("canary")
    name = mission["metadata"]["name"]
    if not canary:
        return f"{name}: no canary yet"
    gate = canary.get("gate", {})
    rows = [
        ("mission", name),
        ("tries", canary.get("image") or canary.get("model", "")),
        ("phase", f"{canary['phase']}{' (paused)' if canary.get('paused') else ''}"),
        ("because", canary.get("reason", "")),
        ("step", str(canary.get("step", ""))),
        ("stable / canary", f"{canary.get('stableWeight', 100)} / {canary.get('weight', 0)} %"),
        ("mirrored", f"{canary.get('mirror', 0)} %"),
        ("gate", f"{gate.get('verdict', '')} after {gate.get('pairs', 0)} pairs"),
    ]
    return "\n".join(f"{key:<16} {value}" for key, value in rows)


def explanation(mission: dict[str, Any]) -> str:
    """Return what the gate has seen and what it waits for."""
    gate = ((mission.get("status") or {}).get("canary") or {}).get("gate")
    if not gate:
        return f"{mission['metadata']['name']}: the gate has not been asked"
    lines = [f"verdict {gate['verdict']} after {gate['pairs']} pairs"]
    lines += [f"  {reason}" for reason in gate.get("reasons", "").split("; ") if reason]
    if gate.get("delta"):
        lines.append(f"farthest from shown: {gate['delta']}, p {gate['p']} (always valid)")
    return "\n".join(lines)


def history(mission: dict[str, Any]) -> str:
    """Return the changes of phase, oldest first."""
    changes = ((mission.get("status") or {}).get("canary") or {}).get("history") or []
    return "\n".join(
        f"{one['time']}  {one['id']}  {one['phase']:<12} step {one['step']}  "
        f"{one['pairs']} pairs  {one['reason']}"
        for one in changes
    )


def read_step(text: str) -> dict[str, int]:
    """Read ``weight:seconds``.

    Raises:
        ValueError: It is no pair of numbers.
    """
    weight, _, seconds = text.partition(":")
    try:
        return {"weight": int(weight), "seconds": int(seconds or 60)}
    except ValueError as err:
        raise ValueError(f"{text!r} is not weight:seconds, such as 10:60") from err


def _run(command: list[str]) -> int:
    print(f"$ {shlex.join(command)}", file=sys.stderr)
    return subprocess.run(command, check=False).returncode


def _start(asked: argparse.Namespace) -> int:
    patch = json.dumps(start_patch(asked))
    return _run(kubectl(asked, "patch", "mission", asked.mission, "--type=merge", "-p", patch))


def _steer(asked: argparse.Namespace) -> int:
    note = f"{ANNOTATION}={asked.verb}"
    return _run(kubectl(asked, "annotate", "mission", asked.mission, note, "--overwrite"))


def _show(asked: argparse.Namespace) -> int:
    command = kubectl(asked, "get", "mission", asked.mission, "-o", "json")
    print(f"$ {shlex.join(command)}", file=sys.stderr)
    found = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    if found.returncode == 0:
        print(asked.show(json.loads(found.stdout)))
    return found.returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kubectl bem", description=__doc__)
    parser.add_argument("-n", "--namespace", default="")
    # kubectl takes it anywhere.
    within = argparse.ArgumentParser(add_help=False)
    within.add_argument("-n", "--namespace", default=argparse.SUPPRESS)
    things = parser.add_subparsers(required=True, metavar="canary|gate")
    canary = things.add_parser("canary", help="start and steer canaries")
    verbs = canary.add_subparsers(required=True, dest="verb")
    start = verbs.add_parser("start", help="try an image or an adapter", parents=[within])
    start.add_argument("mission")
    what = start.add_mutually_exclusive_group(required=True)
    what.add_argument("--image", help="image of a second Deployment")
    what.add_argument("--model", help="another adapter of the same pods")
    start.add_argument("--step", action="append", help="weight:seconds, such as 10:60; repeat")
    start.add_argument("--shadow", type=int, help="percent of requests mirrored")
    start.add_argument("--attempt", type=int, help="raise it to try the same again")
    start.set_defaults(run=_start)
    for verb in STEERING:
        one = verbs.add_parser(verb, parents=[within])
        one.add_argument("mission")
        one.set_defaults(run=_steer)
    for verb, show in (("status", table), ("history", history)):
        one = verbs.add_parser(verb, parents=[within])
        one.add_argument("mission")
        one.set_defaults(run=_show, show=show)
    gate = things.add_parser("gate", help="what the gate says").add_subparsers(required=True)
    explain = gate.add_parser("explain", parents=[within])
    explain.add_argument("mission")
    explain.set_defaults(run=_show, show=explanation)
    return parser
