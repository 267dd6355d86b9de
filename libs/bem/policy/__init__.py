"""Macro-policy of the agentic router: plans over adapters, cloned from outcomes, then TRPO."""
