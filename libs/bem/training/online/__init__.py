"""Training of the online learner's bank, and likelihoods as functions of a code."""
