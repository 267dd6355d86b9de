"""Wiring of the validation service."""

import asyncio

from bem_fleet.acceptance.catalogue import load_catalogue
from bem_fleet.services.validation.canary_analysis import CanaryAnalyzer
from bem_fleet.services.validation.canary_observations import CanaryObservations
from bem_fleet.services.validation.claim_ledger import ClaimLedger
from bem_fleet.services.validation.claim_service import ClaimService
from bem_fleet.services.validation.compute_pool import ComputePool
from bem_fleet.services.validation.probe_client import ProbeClient
from bem_fleet.services.validation.servicer import SERVICE, ValidationServicer
from bem_fleet.services.validation.settings import ValidationSettings
from bemfleet.validation.v1 import validation_pb2_grpc
from fleet import logs
from fleet.access.own_key import OwnKey
from fleet.certificates import certificates_of
from fleet.errors import UnavailableError
from fleet.server import App

_LOG = logs.get("validation")
HEALTH_INTERVAL_S = 1.0
GATES_INTERVAL_S = 5.0


async def build(settings: ValidationSettings, app: App) -> None:
    """Add ValidationService; it is ready while Redis is reachable."""
    catalogue = load_catalogue(settings.gates)
    ledger = ClaimLedger(settings.redis_url, settings.claims_stream, catalogue.gates)
    pool = ComputePool(settings.workers, settings.max_queued)
    probes = ProbeClient(
        settings.probe_timeout_s, OwnKey(settings.service_key_file), certificates_of(settings)
    )
    observations = CanaryObservations(settings.redis_url)
    claims = ClaimService(
        catalogue, ledger, pool, alpha=settings.alpha, resamples=settings.resamples
    )
    servicer = ValidationServicer(claims, CanaryAnalyzer(observations, probes), settings)
    validation_pb2_grpc.add_ValidationServiceServicer_to_server(servicer, app.server)
    await app.register_service(SERVICE)
    for resource in (ledger, observations, probes, pool):
        app.on_stop(resource.close)
    app.spawn(_follow_redis_health(app, ledger))
    app.spawn(_watch_gates(claims))


async def _follow_redis_health(app: App, ledger: ClaimLedger) -> None:
    """Keep the service's health equal to Redis's: a claim that cannot be recorded is no answer."""
    serving = False
    while True:
        try:
            await ledger.ping()
        except UnavailableError as err:
            if serving:
                _LOG.warning("not ready", reason=str(err))
            reachable = False
        else:
            reachable = True
        if reachable != serving:
            await app.set_serving(SERVICE, serving=reachable)
        serving = reachable
        await asyncio.sleep(HEALTH_INTERVAL_S)


async def _watch_gates(claims: ClaimService) -> None:
    """Keep the metric of lost gates current; without Redis it keeps its last values."""
    while True:
        try:
            await claims.watch_gates()
        except UnavailableError as err:
            _LOG.info("gates not read", reason=str(err))
        await asyncio.sleep(GATES_INTERVAL_S)
