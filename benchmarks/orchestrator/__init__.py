"""How well and how fast the orchestrator assigns and reconciles."""
