"""What a preset may call its data: a corpus that is known by name, a path, a data set of the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, Literal, cast

from tgsbench.schema.preset import Workload

CORPORA: Final = ("alpaca", "file", "pydoc", "lengths")
"""Corpora that are known by name; `file` is the one at `workload.file`."""
CorpusKind = Literal["alpaca", "file", "pydoc", "lengths", "hub", ""]
_HUB = r"^[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95}){0,2}:[A-Za-z][\w.-]{0,95}$"
_PATH_KEYS = ("corpus", "file", "lengths", "tokenizer")


def corpus_kind(text: str) -> CorpusKind:
    """What a corpus is, told from its name alone; empty where it is nothing that is known.

    A path has a slash or a dot in it; a data set is NAME:SPLIT or NAME/CONFIG:SPLIT.
    """
    if text in CORPORA:
        return cast(CorpusKind, text)
    if text.startswith((".", "/", "~")):
        return "file"
    if re.match(_HUB, text):
        return "hub"
    return "file" if "/" in text or "." in text else ""


def data_path(workload: Workload) -> Path:
    """Path of the data of a corpus of kind `file`."""
    return Path(workload.file if workload.corpus == "file" else workload.corpus).expanduser()


def is_own(workload: Workload) -> bool:
    """Is there data, a tokenizer or a histogram of the user's own to be looked at?"""
    kind = corpus_kind(workload.corpus)
    return (
        kind in ("file", "hub") or bool(workload.tokenizer) or (kind == "lengths" and bool(workload.lengths))
    )


def is_here(workload: Workload) -> bool:
    """Are the user's own data and tokenizer paths, for which no hub is asked?"""
    tokenizer = workload.tokenizer
    has_files = not tokenizer or _exists(Path(tokenizer).expanduser())
    return is_own(workload) and corpus_kind(workload.corpus) != "hub" and has_files


def place_paths(document: dict[str, Any], folder: Path) -> None:
    """Make paths of a preset's data whole: what lies beside the preset's file is meant."""
    workload = document.get("workload")
    if not isinstance(workload, dict):
        return
    for key in _PATH_KEYS:
        text = workload.get(key)
        if isinstance(text, str) and text and text not in CORPORA:
            place = folder / Path(text).expanduser()
            if _exists(place):
                workload[key] = str(place.resolve())


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or a null byte
        return False
