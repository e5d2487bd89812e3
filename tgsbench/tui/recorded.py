"""The recorded run that ships with the package, for a first look without any hardware."""

from __future__ import annotations

from pathlib import Path

SPEED = 60.0
"""It lasts 67 minutes of run time: a bit over a minute to watch."""
RUN_SPEED = 10.0
"""Pace of other runs, unless another one is asked for."""
WELCOME = (
    ("replay", "Watch a recorded run (simulated data, 8 ranks, one of them slow)"),
    ("preset", "Run a preset that fits this machine"),
    ("doctor", "Check this machine with the doctor"),
    ("", "Look around"),
)


def recording() -> Path:
    """Folder of the recording: made from simulated events and marked so."""
    return Path(__file__).resolve().parent.parent / "recorded" / "simulated-llama2_7b_128k"
