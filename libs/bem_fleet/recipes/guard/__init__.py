"""Training of the guard's sentence encoder: ``python -m bem_fleet.recipes.guard``."""
