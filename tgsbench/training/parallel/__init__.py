"""Sequence parallelism: mesh, all-to-all, checkpointing, offload."""
