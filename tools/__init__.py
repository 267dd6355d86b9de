"""Commands of the repository: setup, local fleet, code generation."""
