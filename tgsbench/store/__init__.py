"""Run directories and what is derived from them."""
