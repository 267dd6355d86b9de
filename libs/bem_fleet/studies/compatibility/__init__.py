"""Compatibility study: every pair of missions active together, and all five at once."""
