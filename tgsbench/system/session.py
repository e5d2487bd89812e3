"""Children in a session of their own, which no signal to their parent's group reaches."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO


def start_in_session(
    argv: Sequence[str], env: Mapping[str, str], sink: BinaryIO | int, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a child that reads nothing and whose words, errors too, go into `sink`.

    Raises OSError when it cannot be started.
    """
    return subprocess.Popen(
        list(argv),
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=sink,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
