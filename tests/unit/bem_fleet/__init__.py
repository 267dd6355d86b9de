"""Tests of ``bem_fleet``."""
