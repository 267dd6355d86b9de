"""Tests of the trust region."""
