"""Recipes of the agentic router: adapters of its tasks, outcome tables and the macro-policy."""
