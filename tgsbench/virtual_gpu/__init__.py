"""A GPU that is not there: torch's real CUDA path on any machine, with kernels counted and not computed."""
