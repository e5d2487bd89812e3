"""Model shapes, their FLOPs, and models built from them."""
