"""Measuring: networks times images gives rows of the results table."""
