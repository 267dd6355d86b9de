"""Tests of the generators and of set-up."""
