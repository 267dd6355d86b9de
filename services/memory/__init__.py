"""Mission E: remembers documents in constant bytes and answers with citations."""
