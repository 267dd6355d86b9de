"""BEM sites, the bank of skills stacked in them, and their artifacts."""
