"""Online mission: a model that learns from feedback in versions that can be restored."""
