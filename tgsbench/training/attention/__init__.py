"""Attention inside a rank: kernels, document boundaries, which kernel runs."""
