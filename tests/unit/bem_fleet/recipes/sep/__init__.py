"""Tests of the recipe of mission sep."""
