"""Per-item scores of responses: exact match, F1, BLEU, chrF, format, perplexity, calibration."""
