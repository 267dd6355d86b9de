"""Study of the content guard: head reports, obfuscation and the sidecar's arm of gate C."""
