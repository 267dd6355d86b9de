"""Tests of the recipe of mission memory."""
