"""Multi-order interactions: pairs, contexts, estimates, strengths and their plans."""
