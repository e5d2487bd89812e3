"""Widgets: each renders plain values that a screen hands it."""
