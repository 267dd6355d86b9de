"""BEM Fleet: services, commands, evaluation and studies around the model library ``bem``."""
