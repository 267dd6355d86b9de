"""Benchmarks of the orchestrator: assignment, reconciling and rollback."""
