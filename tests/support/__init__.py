"""Test infrastructure: required tools, floors of tests that must run, scenario stages."""
