"""The edge: OpenAI-compatible HTTP in front of the missions."""
