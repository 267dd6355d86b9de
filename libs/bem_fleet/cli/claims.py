"""``fleetctl claims verify``: check of the validation service's claim ledger."""

import asyncio
from typing import Annotated

import typer
from fleet.wire import CLAIMS_STREAM

from bem_fleet.cli.application import NO, YES
from bem_fleet.cli.local.plan import Plan
from bem_fleet.cli.reports import Report, prints_report

app = typer.Typer(no_args_is_help=True, help="Check the ledger of claims.")
_MAX_PRINTED = 20


@app.callback()
def _group() -> None:
    """Keep ``verify`` a command of its own: typer would merge a single one."""


@app.command("verify")
@prints_report
def verify(
    redis_url: Annotated[
        str, typer.Option(help="URL of Redis; the fleet of this machine without it")
    ] = "",
    stream: Annotated[str, typer.Option(help="Redis stream of the claims")] = CLAIMS_STREAM,
) -> Report:
    """Name every record that is no claim, and every index entry without a record.

    The service works beside such records and counts each as a claim without evidence. Exit code 0
    if there are none, 1 if there are, 2 if the ledger cannot be read.
    """
    return asyncio.run(_verify(redis_url or Plan().redis_url("validation"), stream))


async def _verify(redis_url: str, stream: str) -> Report:
    from bem_fleet.acceptance.catalogue import load_catalogue  # noqa: PLC0415 - loads scipy
    from bem_fleet.services.validation.claim_ledger import ClaimLedger  # noqa: PLC0415
    from bem_fleet.services.validation.ledger_check import check_ledger  # noqa: PLC0415

    ledger = ClaimLedger(redis_url, stream, load_catalogue().gates)
    try:
        report = await check_ledger(ledger)
    finally:
        await ledger.close()
    faults = [{"id": fault.id, "problem": fault.problem} for fault in report.faults]
    lines = [f"{stream} {fault.id}: {fault.problem}" for fault in report.faults[:_MAX_PRINTED]]
    if len(faults) > _MAX_PRINTED:
        lines.append(f"and {len(faults) - _MAX_PRINTED} more")
    lines.append(f"{stream}: {report.claims} claims, {len(faults)} faults")
    data = {"stream": stream, "claims": report.claims, "faults": faults}
    return Report(data, lines, NO if faults else YES)
