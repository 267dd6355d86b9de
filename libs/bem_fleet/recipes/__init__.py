"""Training recipes: data, hyperparameters and evaluation of each trained artifact."""
