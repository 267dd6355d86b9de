"""Tests of the compatibility study."""
