"""How this tgsbench was installed, and so the commands that add packages to it and renew it.

It is on no package index: a remedy names the clone that runs, or the wheel that it came from.
"""

from __future__ import annotations

import json
from pathlib import Path

from tgsbench.version import VERSION

FLASH_ATTN = "pip install flash-attn --no-build-isolation"
"""Its source build imports torch, so torch has to be there first; no extra can say that."""


def pip_install(*extras: str) -> str:
    """The command that adds extras of pyproject.toml to this installation; empty without extras."""
    names = ",".join(dict.fromkeys(extras))
    if not names:
        return ""
    clone = _clone()
    return f'pip install -e "{clone}[{names}]"' if clone else f'pip install "{_wheel()}[{names}]"'


def upgrade() -> str:
    """How to get a newer tgsbench."""
    clone = _clone()
    return f"git -C {clone} pull" if clone else "pip install the wheel of a newer release"


def _clone() -> Path | None:
    """The source tree that runs; None for an installed wheel."""
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / "pyproject.toml").is_file() else None


def _wheel() -> str:
    """Path of the wheel that pip installed, as it noted (PEP 610); else the wheel's file name."""
    import importlib.metadata  # here, for it takes 15 ms, and most commands import this module
    from urllib.parse import unquote, urlsplit

    try:
        noted = importlib.metadata.distribution("tgsbench").read_text("direct_url.json")
        path = Path(unquote(urlsplit(json.loads(noted or "{}").get("url", "")).path))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        path = Path()
    return str(path) if path.suffix == ".whl" else f"tgsbench-{VERSION}-py3-none-any.whl"
