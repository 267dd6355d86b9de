"""Mission A: plans and generates with the base model and its adapters."""
