"""Stored runs in the formats of other tools; written from events, after the run."""
