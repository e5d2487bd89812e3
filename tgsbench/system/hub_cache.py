"""The cache of Hugging Face's hub on this machine: what a hub name was fetched to, without any network."""

from __future__ import annotations

import os
from pathlib import Path


def newest_snapshot(name: str, file: str) -> Path | None:
    """`file` of the newest snapshot of a hub name that this machine has; None without one."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    folder = cache / f"models--{name.replace('/', '--')}" / "snapshots"
    found = sorted(folder.glob(f"*/{file}"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None
