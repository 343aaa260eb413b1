"""Recipes: one function per run, with a label that says what it is and what it showed."""
