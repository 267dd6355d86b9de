"""Tests of bem.online."""
