"""Runs in one file and back: a gzipped tar whose first member lists every file's SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

import msgspec
from msgspec import Struct

from tgsbench import units
from tgsbench.errors import ExitCode, TgsError
from tgsbench.safe_files import open_regular, reason_of
from tgsbench.store.run_dir import RunDir, unwritable

_SUMS = "tgsbench-archive.json"
_CHUNK = 1 << 20
_MAX_SUMS = 32 << 20
_MAX_MEMBERS = 200_000
_MAX_HEADER = 64 << 10
_MAX_EXPANSION = 100
"""Events shrink to a tenth and traces lie in it compressed; a thousand times is made to hurt."""
_ALWAYS_ALLOWED = 256 << 20
_RUN_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,200}$")


class Member(Struct, frozen=True):
    """One file of the archive."""

    path: str
    """RUN/… with forward slashes."""
    num_bytes: int
    sha256: str


class Sums(Struct, frozen=True, kw_only=True):
    """The archive's first member."""

    schema_version: int = 1
    members: list[Member]


def pack(runs: Sequence[RunDir], target: Path) -> Sums:
    """Write runs into one new file; locks and temporary files stay out, links are not followed.

    Raises TgsError when the file exists or cannot be written, or a run goes on.
    """
    for run in runs:
        if run.is_alive():
            raise TgsError(f"{run.run_id} is still running", hint="wait for it", exit_code=ExitCode.STORE)
    files = [(f"{run.run_id}/{name}", run.path / name) for run in runs for name in _files(run.path)]
    sums = Sums(members=[_member(name, path) for name, path in files])
    if target.exists():
        raise TgsError(f"{target} already exists", hint="choose another name", exit_code=ExitCode.STORE)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with tarfile.open(temporary, "w:gz", compresslevel=6) as tar:
            _add(tar, _SUMS, io.BytesIO(data := msgspec.json.encode(sums)), len(data))
            for member, (_, path) in zip(sums.members, files, strict=True):
                with os.fdopen(open_regular(path), "rb") as file:
                    _add(tar, member.path, file, member.num_bytes)
        temporary.rename(target)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return sums


def unpack(source: Path, root: Path, max_bytes: int | None = None) -> list[str]:
    """Bring the runs of an archive into `root`; returns their names.

    Everything is checked before anything appears: names, kinds, sizes and sums. `max_bytes` is what its files
    may hold in all; by default 100 times the archive's size, 256 MiB at least. Raises TgsError when the
    archive says otherwise than it holds, holds more, or a run of that name is there already.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".restore-", dir=root))
    except OSError as error:
        raise unwritable(root, error) from error
    try:
        names = _extract(source, staging, max_bytes)
        taken = [name for name in names if (root / name).exists()]
        if taken:
            raise TgsError(f"{root / taken[0]} already exists", exit_code=ExitCode.STORE)
        for name in names:
            (staging / name).rename(root / name)
        return names
    except (tarfile.TarError, EOFError, zlib.error, ValueError, RecursionError, OSError) as error:
        raise _bad(source, reason_of(error)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _BoundedTarInfo(tarfile.TarInfo):
    """Refuses what tarfile reads into memory before anybody can look at it: long headers, sparse maps."""

    _HEADERS = (
        tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
        tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
    )  # fmt: skip

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a sparse file")
        if self.type in self._HEADERS and not 0 <= self.size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes; at most {_MAX_HEADER:,}")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise tarfile.ReadError("a sparse file")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10


def _opened(raw: IO[bytes]) -> tarfile.TarFile:
    """The archive as a stream; tarfile takes the end of a file within gzip's first ten bytes for a letter."""
    try:
        return tarfile.open(fileobj=raw, mode="r|gz", tarinfo=_BoundedTarInfo)
    except TypeError as error:
        raise tarfile.ReadError("it ends within its first bytes") from error


def _extract(source: Path, staging: Path, max_bytes: int | None) -> list[str]:
    raw = os.fdopen(open_regular(source, follow=True), "rb")
    with raw, _opened(raw) as tar:
        members = iter(tar)
        sums = _read_sums(source, tar, members)
        _check_size(source, sums, max_bytes)
        expected = {member.path: member for member in sums.members}
        if len(expected) != len(sums.members):
            raise _bad(source, "a file is listed twice")
        for path in expected:
            _check_path(source, path)
        for info in members:
            member = expected.pop(info.name, None)
            if member is None or not info.isreg() or info.size != member.num_bytes:
                raise _bad(source, f"{info.name!r} is not what its list says")
            _write_member(source, tar, info, member, staging)
    if expected:
        raise _bad(source, f"{next(iter(expected))!r} is missing")
    return sorted({member.path.partition("/")[0] for member in sums.members})


def _read_sums(source: Path, tar: tarfile.TarFile, members: Iterator[tarfile.TarInfo]) -> Sums:
    first = next(members, None)
    if first is None or first.name != _SUMS or not first.isreg() or first.size > _MAX_SUMS:
        raise _bad(source, "no list of files at its start")
    file = tar.extractfile(first)
    assert file is not None
    try:
        return msgspec.json.decode(file.read(), type=Sums)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _bad(source, f"its list of files: {reason_of(error)}") from error


def _check_size(source: Path, sums: Sums, max_bytes: int | None) -> None:
    """What the list promises is what is written: a member of another size is refused."""
    if len(sums.members) > _MAX_MEMBERS:
        raise _bad(source, f"{len(sums.members):,} files; at most {_MAX_MEMBERS:,}")
    total, size = sum(member.num_bytes for member in sums.members), source.stat().st_size
    if any(member.num_bytes < 0 for member in sums.members):
        raise _bad(source, "a file of negative size")
    if total > (max(_ALWAYS_ALLOWED, _MAX_EXPANSION * size) if max_bytes is None else max_bytes):
        raise TgsError(
            f"{source}: {units.size(size)} that expand to {units.size(total)}",
            hint=f"if you trust it: --max-size {-(-total >> 20)}M",
            exit_code=ExitCode.BAD_INPUT,
        )


def _check_path(source: Path, path: str) -> None:
    parts = PurePosixPath(path).parts
    plain = "/".join(parts) == path and not path.startswith("/") and "\0" not in path and "\\" not in path
    if not plain or len(parts) < 2 or ".." in parts or not _RUN_NAME.match(parts[0]):
        raise _bad(source, f"{path!r} leaves the run's folder")


def _write_member(
    source: Path, tar: tarfile.TarFile, info: tarfile.TarInfo, member: Member, to: Path
) -> None:
    target = to / member.path
    target.parent.mkdir(parents=True, exist_ok=True)
    file = tar.extractfile(info)
    assert file is not None
    digest = hashlib.sha256()
    with target.open("xb") as out:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != member.sha256:
        raise _bad(source, f"{member.path!r} is damaged: its SHA-256 differs")


def _files(folder: Path) -> list[str]:
    """Relative names of the regular files, sorted."""
    found = []
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not (Path(base) / name).is_symlink()]
        paths = [Path(base) / name for name in names if not name.startswith(".")]
        found += [p.relative_to(folder).as_posix() for p in paths if p.is_file() and not p.is_symlink()]
    return sorted(found)


def _member(name: str, path: Path) -> Member:
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Member(name, os.fstat(file.fileno()).st_size, digest)
    except OSError as error:
        raise TgsError(f"{path}: {error.strerror}", exit_code=ExitCode.STORE) from error


def _add(tar: tarfile.TarFile, name: str, file: IO[bytes], num_bytes: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = num_bytes, 0o644
    with contextlib.closing(file):
        tar.addfile(info, file)


def _bad(source: Path, why: str) -> TgsError:
    return TgsError(f"{source}: no archive to trust: {why}", exit_code=ExitCode.BAD_INPUT)
