"""Benchmarks: medians of paired runs on one machine, never asserted in CI."""
