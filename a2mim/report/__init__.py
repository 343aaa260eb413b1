"""Figures and pages, from tables only."""
