"""Tests of a change between two versions of the fleet, on a real Kubernetes."""
