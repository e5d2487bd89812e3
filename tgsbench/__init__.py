"""tgsbench measures how fast language models train on long sequences."""

__version__ = "0.1.0"
