"""Starts ranks and watches them; never imports torch."""
