"""Run folders: tables, records, and how a run is named, kept and resumed."""
