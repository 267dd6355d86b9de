"""Router service (Mission A): text generation with the base model and its adapters."""
