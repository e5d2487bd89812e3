"""One file an engine, each with its `ENGINE`: packages, options, limits, costs, how it is run and read."""
