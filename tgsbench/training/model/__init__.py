"""The transformers model that is trained: built on the meta device, fused layers, loss."""
