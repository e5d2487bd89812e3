"""The terminal UI: renders view-models, starts no training in its own process."""
