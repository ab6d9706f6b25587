"""The table of a run, its figures and its page. Imports no torch."""
