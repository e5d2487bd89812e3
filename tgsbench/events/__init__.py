"""Reads event files as they grow."""
