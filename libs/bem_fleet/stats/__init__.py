"""Statistical inference for paired evaluations and canaries: numpy, scipy and statsmodels only."""
