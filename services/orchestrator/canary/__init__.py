"""Canary rollouts: a pure state machine, its specification and its form in a Mission's status."""
