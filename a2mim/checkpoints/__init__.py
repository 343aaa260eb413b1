"""Weights: files, layouts, architectures, loading and saving."""
