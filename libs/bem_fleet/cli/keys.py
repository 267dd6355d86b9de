"""``fleetctl keys``: API keys of the local fleet, or of any keys file."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from fleet.access.keys import KeyEntry, KeyLimits, key_digest, new_key, read_keys
from fleet.access.keys_editing import (
    read_or_empty,
    retired,
    rotated,
    with_key,
    without_key,
    write_keys,
)
from fleet.errors import InvalidArgumentError
from pydantic import ValidationError

from bem_fleet.cli.local.plan import Plan
from bem_fleet.cli.reports import Report, Table, prints_report

app = typer.Typer(
    no_args_is_help=True,
    help="Add, rotate, remove and list API keys. Servers apply a change within a second. While "
    "there is a key with role user, users' calls need one.",
)


@app.callback()
def _options(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Option(help="keys file; that of the local fleet without it")
    ] = None,
) -> None:
    ctx.obj = file or Plan().keys_file


@app.command("add")
@prints_report
def add(
    ctx: typer.Context,
    name: str,
    *,
    role: Annotated[str, typer.Option(help="user, service or operator")] = "user",
    tenant: Annotated[str, typer.Option(help="tenant of the key's requests")] = "",
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    concurrent: Annotated[int | None, typer.Option(min=1, help="requests in flight")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="days until it expires")] = None,
) -> Report:
    """Add a key and print it; it cannot be shown again."""
    file, key = read_or_empty(ctx.obj), new_key()
    if any(one.name == name for one in file.keys):
        raise InvalidArgumentError("name", f"{name!r} exists; rotate it, or choose another name")
    expires = datetime.now(UTC) + timedelta(days=days) if days else None
    limits = KeyLimits(
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrent=concurrent,
    )
    given = {
        "name": name,
        "role": role,
        "tenant": tenant,
        "expires": expires,
        "limits": limits if limits != KeyLimits() else None,
    }
    try:
        entry = KeyEntry.model_validate({**given, "sha256": key_digest(key)})
    except ValidationError as err:
        first = err.errors()[0]
        raise InvalidArgumentError(".".join(map(str, first["loc"])), first["msg"]) from err
    write_keys(ctx.obj, with_key(file, entry))
    return Report({"name": name, "key": key}, [key])


@app.command("rotate")
@prints_report
def rotate(ctx: typer.Context, name: str) -> Report:
    """Give a key a new secret and print it; the old one stays valid until `retire`."""
    file, key = rotated(read_keys(ctx.obj), name)
    write_keys(ctx.obj, file)
    return Report({"name": name, "key": key}, [key])


@app.command("retire")
@prints_report
def retire(ctx: typer.Context, name: str) -> Report:
    """End the validity of a rotated key's old secret."""
    write_keys(ctx.obj, retired(read_keys(ctx.obj), name))
    return Report({"name": name}, [f"{name}: only the newest secret is valid"])


@app.command("remove")
@prints_report
def remove(ctx: typer.Context, name: str) -> Report:
    """Remove a key."""
    write_keys(ctx.obj, without_key(read_keys(ctx.obj), name))
    return Report({"name": name}, [f"{name}: removed"])


@app.command("list")
@prints_report
def list_keys(ctx: typer.Context) -> Report:
    """Print names, roles, tenants and limits; secrets are not stored."""
    head = ("name", "role", "tenant", "secrets", "limits", "expires")
    found = read_keys(ctx.obj).keys
    data = [one.model_dump(mode="json", exclude={"sha256"}) for one in found]
    return Report(data, [Table([head, *(_row(one) for one in found)])])


def _row(one: KeyEntry) -> tuple[str, str, str, str, str, str]:
    limits = one.limits.model_dump(exclude_none=True) if one.limits else {}
    return (
        one.name,
        one.role,
        one.tenant or "-",
        str(len(one.sha256)),
        ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in limits.items()) or "-",
        one.expires.isoformat(timespec="seconds") if one.expires else "-",
    )
