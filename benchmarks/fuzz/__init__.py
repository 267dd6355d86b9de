"""Fuzz test of every RPC and HTTP route of a running fleet, from its own schemas."""
