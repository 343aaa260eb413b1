"""Frozen features and what they know about classes."""
