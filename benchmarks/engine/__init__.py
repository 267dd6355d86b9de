"""Measures of the engine, each a module that runs alone and prints JSON."""
