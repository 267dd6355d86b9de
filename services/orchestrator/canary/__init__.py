"""What a canary does when: a pure state machine, and what its parts look like in Kubernetes."""
