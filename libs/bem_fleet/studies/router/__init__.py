"""Study of the agentic router: plans against monoliths on held-out record questions."""
