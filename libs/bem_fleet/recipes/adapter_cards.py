"""Cards of adapters that the adapter trainer trained."""

from bem.adapters.artifact import AdapterCard
from bem.training.trainer import AdapterTrainer


def adapter_card(
    trainer: AdapterTrainer, *, name: str, data_digest: str, command: str
) -> AdapterCard:
    """Return the card of a trained adapter.

    Args:
        trainer: Trainer of the adapter.
        name: Name in requests.
        data_digest: SHA-256 of the training data.
        command: Command line that trains it.
    """
    config, backbone = trainer.config, trainer.backbone
    return AdapterCard(
        name=name,
        base_name=backbone.name,
        base_digest=backbone.digest,
        layers=list(config.layers),
        kinds=list(config.kinds),
        rank=trainer.rank,
        scale=config.scale,
        feature_layer=config.feature_layer,
        variant=config.variant,
        active_ranks=config.active_ranks,
        command=command,
        data_digest=data_digest,
        seed=config.seed,
    )
