"""Sequence parallelism: mesh, all-to-all, attention, checkpointing, loss."""
