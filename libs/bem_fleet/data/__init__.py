"""Data pipelines and prompt sets: packaged datasets, generated questions and red-team prompts."""
