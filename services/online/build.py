"""Assembly of the online mission."""

from bem.errors import BemError
from bem_fleet.services.online.answering import Answering, AnsweringHolder
from bem_fleet.services.online.feedback_entry import FeedbackEntry
from bem_fleet.services.online.learner_host import has_bank, open_learner
from bem_fleet.services.online.metrics import BANK, observe_engine
from bem_fleet.services.online.servicer import OnlineServicer
from bem_fleet.services.online.settings import OnlineSettings
from bem_fleet.serving import EngineHost, HostHolder, build_mission
from bemfleet.online.v1 import online_pb2, online_pb2_grpc
from fleet import logs
from fleet.server import App

_LOG = logs.get("online")


async def build(settings: OnlineSettings, app: App) -> None:
    """Serve the mission's own service and the mission contract."""
    holder, answering = HostHolder(), AnsweringHolder()
    entry = FeedbackEntry(settings)
    app.on_stop(entry.close)
    servicer = OnlineServicer(answering, entry)
    online_pb2_grpc.add_OnlineServiceServicer_to_server(servicer, app.server)

    def on_loaded(host: EngineHost) -> None:
        observe_engine(host)
        answering.answering = Answering(host)
        start_learner(servicer, answering.answering, settings, app)

    await build_mission(
        app,
        settings,
        name="online",
        service=online_pb2.DESCRIPTOR.services_by_name["OnlineService"],
        holder=holder,
        on_loaded=on_loaded,
    )


def start_learner(
    servicer: OnlineServicer, answering: Answering, settings: OnlineSettings, app: App
) -> None:
    """Give the servicer a learner and run it, or say what is missing: the base model is served."""
    host = answering.engine
    servicer.problem = f"nothing is learned; {settings.bank.name} has no bank"
    if has_bank(settings):
        try:
            learner = open_learner(answering, settings)
        except BemError as err:
            servicer.problem = f"nothing is learned; the bank cannot be used: {err}"
        else:
            servicer.learner, servicer.problem = learner, ""
            app.on_stop(learner.stop)
            app.spawn(learner.loop.run(learns=settings.learns))
    BANK.set(servicer.learner is not None)
    if servicer.problem:
        host.warnings.append(servicer.problem)
        _LOG.warning("served without a learner", reason=servicer.problem)
