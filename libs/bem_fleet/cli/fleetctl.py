"""``fleetctl``: the command line of the fleet.

Exit code 0 means yes (done, healthy, passed), 1 means no (refused, not healthy, not passed), and 2
means that it cannot be told (wrong arguments, or what had to be asked cannot be reached).
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from fleet.wire import AUDIT_STREAM

from bem_fleet.checkout import ROOT
from bem_fleet.cli import (
    adapters,
    audit,
    canary,
    claims,
    experiments,
    feedback,
    keys,
    memory,
    missions,
    model,
    safety,
    versions,
)
from bem_fleet.cli.application import run_application
from bem_fleet.cli.local import commands
from bem_fleet.cli.local.monitoring import ADDRESS, run_monitoring
from bem_fleet.cli.local.plan import Plan
from bem_fleet.cli.operator_channel import calls_services, chosen_cluster
from bem_fleet.cli.reports import Report

AuditStream = Annotated[str, typer.Option(help="Redis stream of the audit records")]
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app = typer.Typer(
    no_args_is_help=True,
    help="Run, inspect and judge the fleet. Exit code 0: yes; 1: no; 2: cannot tell.",
)
audits = typer.Typer(no_args_is_help=True, help="Read and check the sidecars' audit log.")
app.add_typer(audits, name="audit")
app.add_typer(canary.app, name="canary")
app.add_typer(adapters.app, name="adapters")
app.add_typer(keys.app, name="keys")
app.add_typer(claims.app, name="claims")
app.add_typer(memory.app, name="memory")
app.add_typer(model.app, name="model")
app.add_typer(versions.app, name="versions")
app.add_typer(missions.app, name="missions")
app.add_typer(safety.app, name="safety")
app.add_typer(feedback.app, name="feedback")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Arguments without the program's name; None takes those of the process.
    """
    return run_application(app, "fleetctl", arguments)


@app.command()
def up() -> int:
    """Run the fleet on this machine; returns once it is healthy."""
    return commands.up(Plan())


@app.command()
def down() -> int:
    """Stop the fleet of this machine; requests in flight finish."""
    return commands.down(Plan())


@app.command()
@calls_services
def status() -> Report:
    """Print processes, ports, memory (PSS) and health; exit code 0 if the fleet is healthy.

    In a cluster it prints phase, pods and canary of each mission.
    """
    return missions.fleet_status() if chosen_cluster() else commands.status(Plan())


@app.command()
def logs(
    service: Annotated[str, typer.Option(help="process; all without it")] = "",
    lines: Annotated[int, typer.Option(help="last lines of each log")] = 40,
    follow: Annotated[bool, typer.Option(help="continue until interrupted")] = False,
) -> int:
    """Print the last log lines."""
    return commands.logs(Plan(), service, lines, follow=follow)


@app.command()
def monitoring(
    address: Annotated[str, typer.Option(help="listen address, host:port")] = ADDRESS,
) -> int:
    """Run Prometheus beside the fleet of this machine, with the chart's alerting rules."""
    return run_monitoring(Plan(), address)


@app.command()
def gates(
    *,
    phase: Annotated[
        int | None, typer.Option(min=1, max=4, help="deployment phase; all without it")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    check: Annotated[
        bool,
        typer.Option(
            help="write nothing; exit code 2 if gates.json is not what the reports give, or a "
            "report is refused or not what a re-run gives"
        ),
    ] = False,
    sample: Annotated[
        int,
        typer.Option(min=0, help="with --check: items of each signed report to measure again"),
    ] = 0,
    seed: Annotated[
        int | None, typer.Option(help="with --sample: seed of the draw; a new one without it")
    ] = None,
    key_file: Annotated[
        list[Path] | None, typer.Option(help="former operator's key that verifies reports too")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="write the printed gates as a Markdown page too")
    ] = None,
    root: Annotated[Path, typer.Option(help="folder that holds results")] = ROOT,
    definitions: Annotated[
        Path | None, typer.Option("--gates", help="file with the gates in place of the catalogue")
    ] = None,
) -> int:
    """Judge the acceptance gates; exit code 0 only if all pass, and not measured is no pass.

    Judges every gate from the per-item scores of its report, writes results/gates.json, and prints
    the gates of one phase or of all. A report that was edited, typed in or made by another study is
    refused; a gate passes only by a report that the operator's key has signed. --sample measures
    items again and compares.
    """
    from bem_fleet.cli.gates import CheckOptions, report_gates  # noqa: PLC0415 - loads scipy

    options = CheckOptions(key_file or (), sample, seed)
    return report_gates(
        definitions, root, phase, as_json=as_json, check=check, options=options, report=report
    )


@audits.command("list")
@calls_services
def list_audit(
    *,
    last: Annotated[int, typer.Option(min=1, max=10_000, help="number of records")] = 20,
    action: Annotated[str, typer.Option(help="allow, redact, filter or block")] = "",
    request_id: Annotated[str, typer.Option(help="X-Request-ID of the call")] = "",
    principal: Annotated[str, typer.Option(help="name of the caller's key")] = "",
    redis_url: feedback.RedisUrl = "",
    stream: AuditStream = AUDIT_STREAM,
) -> Report:
    """Print the newest records of the audit log, which have no text of a client or a model."""
    given = {"action": action, "request_id": request_id, "principal": principal}
    wanted = {name: value for name, value in given.items() if value}
    if cluster := chosen_cluster():
        return audit.newest_in_cluster(cluster, last, wanted)
    return audit.newest(redis_url or Plan().redis_url("witness"), stream, last, wanted)


@audits.command("verify")
@calls_services
def verify(
    redis_url: feedback.RedisUrl = "",
    stream: AuditStream = AUDIT_STREAM,
    key_file: Annotated[
        Path | None, typer.Option(help="the sidecars' BEM_SAFETY_AUDIT_KEY_FILE")
    ] = None,
    anchor: Annotated[
        Path | None, typer.Option(help="the witness's BEM_SAFETY_AUDIT_ANCHOR")
    ] = None,
    start: Annotated[
        str, typer.Option(help="head before the first record, where older ones were trimmed")
    ] = "",
) -> Report:
    """Find audit records that were edited, dropped or moved, and a log that was cut or made anew.

    Checks the hash chain from its first record to its head, and that it has the records that the
    witness has anchored. Without a URL, login, key and anchors are those of the fleet of this
    machine; in a cluster, the witness checks. Exit code 0 if it is valid, 1 if not, 2 if it cannot
    be read.
    """
    if cluster := chosen_cluster():
        return audit.verify_in_cluster(cluster)
    if not redis_url:
        plan = Plan()
        redis_url = plan.redis_url("witness")
        key_file = key_file or plan.credentials.key_file("audit")
        anchor = anchor or plan.audit_anchor
    return audit.verify(redis_url, stream, audit.keys_from(key_file), start, anchor)


@app.command(context_settings=_PASS_ON)
def train(ctx: typer.Context, name: str) -> int:
    """Train an adapter or the guard's heads; further options are the recipe's.

    `fleetctl train --data train.jsonl --eval eval.jsonl --out adapters/NAME` trains an adapter on
    one's own chats; `fleetctl train --data x --help` lists the options.
    """
    return experiments.run_experiment(experiments.RECIPES, name, ctx.args)


@app.command(context_settings=_PASS_ON)
def evaluate(ctx: typer.Context, name: str) -> int:
    """Evaluate an adapter, in this process or through a fleet; further options are the recipe's.

    `fleetctl evaluate --data eval.jsonl --model adapters/NAME` compares two models on one's own
    items.
    """
    return experiments.run_experiment(experiments.EVALUATIONS, name, ctx.args)


@app.command(context_settings=_PASS_ON)
def study(ctx: typer.Context, name: str) -> int:
    """Run a study; further options are the study's."""
    return experiments.run_experiment(experiments.STUDIES, name, ctx.args)


@app.command(context_settings=_PASS_ON)
def bench(ctx: typer.Context, name: str) -> int:
    """Run a benchmark; further options are the benchmark's."""
    return experiments.run_experiment(experiments.BENCHMARKS, name, ctx.args)


@app.command("new-mission")
def new_mission(name: str) -> int:
    """Lay down the files of a new mission and regenerate what is derived from them."""
    command = [sys.executable, "-m", "tools.new_mission", name]
    return subprocess.run(command, cwd=ROOT, check=False).returncode
