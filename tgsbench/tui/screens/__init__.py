"""Screens: one module each; they own state, widgets only render."""
