"""Tests of the router's study."""
