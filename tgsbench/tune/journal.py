"""A tune's folder: what it was asked, and the end of every trial, a line each; enough to go on from."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from tgsbench.errors import ExitCode, TgsError
from tgsbench.safe_files import check_numbers, harmless, harmless_json, read_regular, reason_of
from tgsbench.store.run_dir import unwritable
from tgsbench.system.file_lock import lock_if_free
from tgsbench.tune.halving import TrialOutcome

_MAX_BYTES = 16 << 20
_LENGTH = re.compile(r"workload\.seq_len=[1-9][0-9]{0,9}")
T = TypeVar("T", bound=Struct)


Objective = Literal["tgs", "tokens-per-dollar", "longest"]
"""Tokens per GPU per second; tokens for the price of a GPU; the longest sequence, then TGS at that length."""


class Asked(Struct, frozen=True, kw_only=True):
    """What a tune is about: another question has another journal."""

    schema_version: int = 1
    base: str
    assignments: list[str]
    """Laid over it before anything is tuned; their keys are held fast."""
    engines: list[str] = []
    """Those that are tried; all where none is named."""
    tried: dict[str, list[str]] = {}
    """Values that are tried of keys which no search varies of itself."""
    objective: Objective = "tgs"

    def laid_over(self, change: list[str]) -> list[str]:
        """All assignments of one of its settings, none of them twice."""
        return [*(text for text in self.assignments if text not in change), *change]

    @property
    def held(self) -> list[str]:
        """Keys that are not tuned."""
        return [text.partition("=")[0].strip() for text in self.assignments]


class Journal:
    """RUNS/tune/NAME.jsonl: one line of `Asked`, then one of `TrialOutcome` for each trial."""

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / "tune" / f"{name}.jsonl"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the journal while a tune is made; the kernel lets go when its process ends in any way.

        Raises TgsError when another process holds it, or it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise unwritable(self.path, error) from error
        try:
            self._lock(fd)
            yield
        finally:
            os.close(fd)

    def open(self, asked: Asked) -> list[TrialOutcome]:
        """Outcomes so far; a new journal is begun where there is none. Raises TgsError as `known`."""
        lines = self._lines()
        if not lines:
            self._append(asked)
        return self._outcomes(lines, asked)

    def known(self, asked: Asked) -> list[TrialOutcome]:
        """Outcomes so far; nothing is written.

        Raises TgsError when a tune of this name was asked something else, or the file cannot be used.
        """
        return self._outcomes(self._whole()[0], asked)

    def begun(self) -> Asked | None:
        """What a tune of this name was asked; None without one.

        Raises TgsError for a file that is no journal.
        """
        lines = self._whole()[0]
        return self._read(lines[0], Asked) if lines else None

    def _outcomes(self, lines: list[bytes], asked: Asked) -> list[TrialOutcome]:
        if not lines:
            return []
        before = self._read(lines[0], Asked)
        outcomes = [self._read(line, TrialOutcome) for line in lines[1:]]
        if before != asked:
            raise TgsError(
                f"{self.path} is the journal of another tune: {before.base} {' '.join(before.assignments)}",
                hint="choose another --name",
                exit_code=ExitCode.STORE,
            )
        return outcomes

    def _read(self, line: bytes, kind: type[T]) -> T:
        try:
            return _read(line, kind)
        except (ValueError, RecursionError) as error:
            raise TgsError(
                f"{self.path}: no journal: {reason_of(error)}", exit_code=ExitCode.STORE
            ) from error

    def _lock(self, fd: int) -> None:
        if not lock_if_free(fd):
            raise TgsError(
                f"a tune called {self.path.stem} is going on in this folder of runs",
                hint="choose another --name, or wait for its end",
                exit_code=ExitCode.STORE,
            )

    def add(self, outcome: TrialOutcome) -> None:
        """Write the end of a trial. Raises TgsError when it cannot be written."""
        self._append(outcome)

    def _append(self, document: Struct) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(document) + b"\n")
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _lines(self) -> list[bytes]:
        """Whole lines; what a killed tune had begun to write goes, for its run makes it again."""
        lines, begun = self._whole()
        if begun:
            self.path.write_bytes(b"".join(line + b"\n" for line in lines))
        return lines

    def _whole(self) -> tuple[list[bytes], bytes]:
        """Whole lines, and the beginning of one that a killed tune did not end."""
        try:
            data = read_regular(self.path, _MAX_BYTES)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return [], b""
            raise TgsError(f"{self.path}: {error.strerror}", exit_code=ExitCode.STORE) from error
        whole, _, begun = data.rpartition(b"\n")
        return whole.split(b"\n") if whole else [], begun


def _read(line: bytes, kind: type[T]) -> T:
    """A line's document. Raises ValueError for what no tune writes."""
    found = harmless(msgspec.json.decode(harmless_json(line), type=kind))
    check_numbers(found)
    if isinstance(found, TrialOutcome) and found.tgs is not None and found.tgs <= 0:
        raise ValueError("tgs: must be above 0")
    if isinstance(found, TrialOutcome) and found.rung == "length" and not _LENGTH.fullmatch(found.key):
        raise ValueError("key: a length's is workload.seq_len=N")
    return found
