"""Bank of the online learner, meta-trained on families of instructions."""
