"""Training recipe of the ``passage-qa`` adapter."""
