"""The product against its peers and its own bare loop; every figure is a ratio from one run."""
