"""Which mission gets which GPUs: a pure function of claims, nodes and what is held now."""
