"""Tests of the services, without network."""
