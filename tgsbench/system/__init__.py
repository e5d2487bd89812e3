"""What this machine is: GPUs, packages, process lifetime."""
