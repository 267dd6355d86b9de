"""Training of the guard's classifier heads."""
