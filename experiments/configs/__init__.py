"""One module per run: its settings, and a label that says what it is and what it showed."""
