"""Training recipes: data, hyperparameters, command line and evaluation of each artifact."""
