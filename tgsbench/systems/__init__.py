"""The training systems that tgsbench runs: one file each, and what is looked up over all of them."""
