"""What runs in every rank: the only package that imports torch, transformers or DeepSpeed."""
