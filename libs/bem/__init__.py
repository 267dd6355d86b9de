"""The model library: a frozen backbone, its adapters, and the engine that runs them."""
