"""Loading of the surface front and of the embedding head from their folder."""

from pathlib import Path

from bem.backbone import Backbone
from bem.sep import front_artifact
from bem.sep.embedding_head import CARD_FILE, EmbeddingHead, load_head
from bem.sep.surface_front import fold_front
from bem_fleet.services.sep.metrics import FRONT_MISSING
from bem_fleet.services.sep.text_embedding import TextEmbedder
from bem_fleet.serving import EngineHost
from fleet import logs

_LOG = logs.get("sep.front_loading")


def with_front(backbone: Backbone, folder: Path) -> Backbone:
    """Return the base model with the front of a folder in its weights; without one as it is.

    Raises:
        ArtifactFormatError: The front is malformed.
        ArtifactTamperedError: The front was edited.
        BaseMismatchError: The front belongs to another base model.
    """
    is_there = (folder / front_artifact.CARD_FILE).is_file()
    FRONT_MISSING.set(not is_there)
    if not is_there:
        return backbone
    factors, card = front_artifact.load_front(folder, base_digest=backbone.digest)
    folded = fold_front(backbone, factors, card.scale, version=card.sha256)
    _LOG.info("front folded", version=folded.folded, layers=len(card.layers))
    return folded


def open_embedder(host: EngineHost, folder: Path, *, batch_tokens: int) -> TextEmbedder:
    """Return the embedder of a loaded model; warnings of the host tell what is missing.

    Args:
        host: Engine host whose model has the front.
        folder: Folder of the artifacts.
        batch_tokens: Tokens that are embedded between two decode steps.

    Raises:
        ArtifactFormatError: The head is malformed.
        ArtifactTamperedError: The head was edited.
        BaseMismatchError: The head belongs to another base model.
    """
    backbone = host.backbone
    missing = []
    if not backbone.folded:
        missing.append(f"front: the base model is served as it is; {folder.name} has no front.json")
    if (folder / CARD_FILE).is_file():
        head, card = load_head(folder, base_digest=backbone.digest)
        if card.front != backbone.folded:
            missing.append("embedding: its head was trained with another front; train it again")
    else:
        width = backbone.model.config.hidden_size
        head = EmbeddingHead(width, width).requires_grad_(requires_grad=False)
        missing.append(
            f"embedding: plain means of states are served; {folder.name} has no embedding.json"
        )
    for reason in missing:
        _LOG.warning("an artifact is missing", reason=reason)
    host.warnings.extend(missing)
    return TextEmbedder(host, head, batch_tokens=batch_tokens)
