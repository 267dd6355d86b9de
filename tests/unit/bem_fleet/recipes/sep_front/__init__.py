"""Tests of the recipe of the surface front."""
