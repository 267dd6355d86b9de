"""The statistics that decide claims: numpy, scipy and statsmodels only, no model and no wire."""
