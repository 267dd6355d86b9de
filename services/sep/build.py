"""Assembly of the sep mission."""

from bem.backbone import Backbone
from bem_fleet.services.sep.front_loading import open_embedder, with_front
from bem_fleet.services.sep.metrics import observe_engine
from bem_fleet.services.sep.servicer import EmbedderHolder, SepServicer
from bem_fleet.services.sep.settings import SepSettings
from bem_fleet.serving import EngineHost, HostHolder, build_mission
from bemfleet.sep.v1 import sep_pb2, sep_pb2_grpc
from fleet.server import App


async def build(settings: SepSettings, app: App) -> None:
    """Serve the mission's own service and the mission contract."""
    holder, embedder = HostHolder(), EmbedderHolder()
    servicer = SepServicer(embedder)
    sep_pb2_grpc.add_SepServiceServicer_to_server(servicer, app.server)

    def prepare(loaded: Backbone) -> Backbone:
        return with_front(loaded, settings.front)

    def on_loaded(host: EngineHost) -> None:
        observe_engine(host)
        embedder.embedder = open_embedder(host, settings.front, batch_tokens=settings.embed_tokens)

    await build_mission(
        app,
        settings,
        name="sep",
        service=sep_pb2.DESCRIPTOR.services_by_name["SepService"],
        holder=holder,
        on_loaded=on_loaded,
        prepare=prepare,
    )
