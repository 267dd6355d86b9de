"""Study of online learning: what corrections fix under several methods, and what they break."""
