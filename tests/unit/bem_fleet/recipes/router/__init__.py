"""Tests of the agentic router's recipes."""
