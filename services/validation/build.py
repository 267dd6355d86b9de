"""Puts the service together."""

import asyncio

from bem_fleet.acceptance.catalogue import load_catalogue
from bem_fleet.services.validation.canaries import Canaries
from bem_fleet.services.validation.desk import Desk
from bem_fleet.services.validation.examiner import Examiner
from bem_fleet.services.validation.ledger import Ledger
from bem_fleet.services.validation.probing import Prober
from bem_fleet.services.validation.servicer import SERVICE, ValidationServicer
from bem_fleet.services.validation.settings import ValidationSettings
from bemfleet.validation.v1 import validation_pb2_grpc
from fleet import logs
from fleet.errors import UnavailableError
from fleet.server import App

_LOG = logs.get("validation")
LOOK_S = 1.0


async def build(settings: ValidationSettings, app: App) -> None:
    """Add the servicer; it is ready while Redis answers."""
    catalogue = load_catalogue(settings.gates)
    ledger = Ledger(settings.redis_url, settings.claims)
    desk = Desk(settings.workers, settings.waiting)
    prober = Prober(settings.probe_timeout_s)
    canaries = Canaries(settings.redis_url, prober)
    examiner = Examiner(catalogue, ledger, desk, alpha=settings.alpha, resamples=settings.resamples)
    validation_pb2_grpc.add_ValidationServiceServicer_to_server(
        ValidationServicer(examiner, canaries, settings), app.server
    )
    await app.register_service(SERVICE)
    app.on_stop(ledger.close)
    app.on_stop(canaries.close)
    app.on_stop(prober.close)
    app.on_stop(desk.close)
    app.spawn(_watch(app, ledger))


async def _watch(app: App, ledger: Ledger) -> None:
    """Keep health in step with Redis: what cannot be recorded is not answered."""
    serving = False
    while True:
        try:
            await ledger.ping()
        except UnavailableError as err:
            if serving:
                _LOG.warning("not ready", reason=str(err))
            now = False
        else:
            now = True
        if now != serving:
            await app.set_serving(SERVICE, serving=now)
        serving = now
        await asyncio.sleep(LOOK_S)
