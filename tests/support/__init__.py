"""Test infrastructure and the fakes that several suites share."""
