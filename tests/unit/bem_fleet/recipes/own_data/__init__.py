"""Tests of the recipe of people's own data."""
