"""Unit tests of the router service."""
