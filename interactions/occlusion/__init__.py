"""Occlusion: what is hidden, and what that does to predictions."""
