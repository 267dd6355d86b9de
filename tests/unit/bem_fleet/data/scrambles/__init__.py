"""Tests of text scrambles."""
