"""Isolation benchmark: latency of one client of a running fleet beside attacks."""
