"""Study of composed adapters: interference of pairs, and quality against the trust region."""
