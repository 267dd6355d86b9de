"""Tests of the gateway, without network."""
