"""Run folders: tables, records, journals, and how a run is named, kept and resumed."""
