"""Any file a user has: plain or packed traces, archives of several ranks' and folders of them.

A trace inside an archive has a path too: that of the archive, and its name in there. Nothing is unpacked.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.safe_files import open_regular

try:
    from isal import igzip, igzip_lib
except ImportError:  # only needs longer: 1.3 instead of 4 GB/s
    _open_gzip: Any = gzip.GzipFile
    _GzipError: Any = zlib.error
else:
    _open_gzip = igzip.IGzipFile
    _GzipError = igzip_lib.IsalError

try:
    import zstandard
except ImportError:  # only needed for .zst
    _ZstdDecompressor: Any = None
    _ZstdError: Any = OSError
else:
    _ZstdDecompressor, _ZstdError = zstandard.ZstdDecompressor, zstandard.ZstdError

PACKING_ERRORS: Final = (
    EOFError, zlib.error, _GzipError, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError,
    NotImplementedError, RuntimeError, _ZstdError,
)  # fmt: skip
"""What packed data of a broken file raise, an encrypted archive among them."""
READ_ERRORS: Final = (OSError, *PACKING_ERRORS)
_PLAIN: Final = re.compile(r"\.json(\.(gz|gzip|zst|zstd|bz2|xz))?$", re.IGNORECASE)
_ARCHIVE: Final = re.compile(r"\.(zip|tar|tgz|tar\.(gz|zst|zstd|bz2|xz))$", re.IGNORECASE)
_TORCH: Final = re.compile(r"\.pt\.trace\.json(\.(gz|zst))?$")
_SNIFFED: Final = 1 << 16
_KEYS: Final = (b'"traceEvents"', b'"schemaVersion"', b'"deviceProperties"', b'"distributedInfo"')
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


def looks_like_file(source: str) -> bool:
    """Does a word name a trace or an archive, whether it is there or not?"""
    return bool(_PLAIN.search(source) or _ARCHIVE.search(source) or source.endswith(".gz"))


def open_trace(path: Path) -> BinaryIO:
    """The unpacked bytes of a trace; raises OSError or one of `READ_ERRORS` when they cannot be read."""
    inside = _archive_of(path)
    if inside is None:
        file = os.fdopen(open_regular(path, follow=True), "rb", buffering=0)
        magic = file.read(4)
        file.seek(0)
        return _unpacked(cast(BinaryIO, file), magic)
    archive, name = inside
    member = _open_member(archive, name)
    return _unpacked(cast(BinaryIO, member), member.peek(4)[:4])


def expanded(path: Path) -> list[Path]:
    """The traces that a file holds: itself, or those of an archive. TgsError for an archive of none."""
    if not _is_archive(path):
        return [path]
    try:
        found = [path / name for name in sorted(_members(path)) if _PLAIN.search(name)]
    except READ_ERRORS as error:
        raise TgsError(f"{path}: cannot be read: {error}", exit_code=ExitCode.BAD_INPUT) from error
    traces = [member for member in found if _is_trace(member)]
    if not traces:
        raise TgsError(
            f"{path}: holds no trace",
            hint="an archive of traces holds .json, .json.gz or .json.zst files, one a rank",
            exit_code=ExitCode.BAD_INPUT,
        )
    return traces


def trace_files(folder: Path) -> list[Path]:
    """Traces in a folder and below, by name; TgsError when there is none.

    Where some bear torch's own name, those; else every file of JSON, packed or not, that begins like a trace.
    """
    files = sorted(path for path in folder.rglob("*") if not _is_hidden(path, folder) and _may_be(path))
    found = [path for path in files if _TORCH.search(path.name)]
    if not found:
        found = [trace for path in files for trace in _traces_of(path)]
    if not found:
        seen = f" ({len(files)} other files of JSON)" if files else ""
        raise TgsError(
            f"no trace in {folder}{seen}",
            hint="capture one: tgsbench run --preset NAME --profile hotspots",
            exit_code=ExitCode.BAD_INPUT,
        )
    return found


def _may_be(path: Path) -> bool:
    return bool(_PLAIN.search(path.name) or _ARCHIVE.search(path.name)) and not path.is_dir()


def _traces_of(path: Path) -> list[Path]:
    if _ARCHIVE.search(path.name):
        try:
            return expanded(path)
        except TgsError:
            return []  # an archive of something else
    return [path] if _is_trace(path) else []


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _is_trace(path: Path) -> bool:
    """Does it begin like one? What cannot be read counts as one: reading it says why."""
    try:
        with open_trace(path) as stream:
            data = bytearray(_SNIFFED)
            filled = 0
            while filled < _SNIFFED and (got := stream.readinto(memoryview(data)[filled:])):  # type: ignore[attr-defined]
                filled += got
    except (*READ_ERRORS, TgsError):
        return True
    begin = bytes(data[:filled])
    return any(key in begin for key in _KEYS) or (begin.lstrip()[:1] == b"[" and b'"ph"' in begin)


def _unpacked(stream: BinaryIO, magic: bytes) -> BinaryIO:
    if magic[:2] == b"\x1f\x8b":
        return cast(BinaryIO, _open_gzip(fileobj=stream, mode="rb"))
    if magic == _ZSTD_MAGIC:
        return _unpacked_zstd(stream)
    if magic[:3] == b"BZh":
        return cast(BinaryIO, bz2.BZ2File(stream))
    if magic == b"\xfd7zX":
        return cast(BinaryIO, lzma.LZMAFile(stream))
    return stream


def _unpacked_zstd(stream: BinaryIO) -> BinaryIO:
    if _ZstdDecompressor is None:
        raise TgsError(
            "zstandard is not installed: it reads .zst files",
            hint=pip_install("profile"),
            exit_code=ExitCode.MISSING_DEPENDENCY,
        )
    reader = _ZstdDecompressor().stream_reader(stream, read_across_frames=True, closefd=True)
    return cast(BinaryIO, io.BufferedReader(reader))


def _archive_of(path: Path) -> tuple[Path, str] | None:
    """The archive that a path goes through, and the rest of the path; None for a file of its own."""
    if path.exists():
        return None
    archive = next((parent for parent in path.parents if parent.is_file()), None)
    return (archive, path.relative_to(archive).as_posix()) if archive is not None else None


def _is_archive(path: Path) -> bool:
    if _ARCHIVE.search(path.name):
        return True
    try:
        with os.fdopen(open_regular(path, follow=True), "rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def _members(archive: Path) -> Iterator[str]:
    """Names of the regular files in an archive."""
    with _plain_file(archive) as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as packed:
                yield from (info.filename for info in packed.infolist() if not info.is_dir())
            return
    with _open_tar(archive) as tar:
        yield from (member.name for member in tar if member.isreg())


def _open_member(archive: Path, name: str) -> io.BufferedReader:
    with _plain_file(archive) as file:
        is_zip = zipfile.is_zipfile(file)
    if is_zip:
        packed = zipfile.ZipFile(_plain_file(archive))
        return io.BufferedReader(cast(io.RawIOBase, packed.open(name)))
    tar = _open_tar(archive)
    for member in tar:
        if member.name == name and member.isreg():
            return cast(io.BufferedReader, tar.extractfile(member))
    raise FileNotFoundError(f"{archive} holds no {name}")


def _plain_file(path: Path) -> BinaryIO:
    return cast(BinaryIO, os.fdopen(open_regular(path, follow=True), "rb"))


def _open_tar(path: Path) -> tarfile.TarFile:
    """As a stream: each member is read as it comes, however the archive is packed."""
    file = _plain_file(path)
    magic = file.read(4)
    file.seek(0)
    return tarfile.open(fileobj=_unpacked(file, magic), mode="r|")


# ---- which rank a file is of

_STRONG: Final = (
    re.compile(
        r"(?<![a-z])(?<!local)(?<!local[-_])(?:global[-_]?)?rank[-_.=:\[]?(\d{1,6})(?!\d)", re.IGNORECASE
    ),
    re.compile(r"(?<![a-z])(?:worker|process|proc|gpu|device)[-_.=]?(\d{1,6})(?!\d)", re.IGNORECASE),
    re.compile(r"(?<![a-z0-9])r(\d{1,6})(?![a-z0-9])", re.IGNORECASE),
    re.compile(r"(?<![a-z])TP[-_]?(\d{1,6})(?!\d)"),
)
"""In names of vLLM, Megatron, torchtitan, verl and others: the word tells; SGLang writes TP."""
_LAST_NUMBER: Final = re.compile(r"(?:^|[-_.])(\d{1,6})$")
_WHOLE_NUMBER: Final = re.compile(r"^(\d{1,6})$")
_NO_RANK: Final = re.compile(r"(step|iter|iteration|epoch|it|pid|run)s?[-_.=]?\d+$", re.IGNORECASE)
_SUFFIXES: Final = re.compile(r"((\.pt)?\.trace)?\.json(\.\w+)?$|\.\w+$", re.IGNORECASE)
_STAMP: Final = re.compile(r"\.\d{9,}$")


def ranks_of(paths: Sequence[Path]) -> list[int]:
    """Rank of each trace by its name, where the names of all of them tell; else by the order of names.

    A last number is a rank where it is padded with zeros ("host_0003") or where the files' are 0, 1, 2, …;
    torch's own name HOST_PID.TIME holds none, and one after "step" or "iteration" is none.
    """
    for pattern in _STRONG:
        found = [_told(pattern, path) for path in paths]
        known = [rank for rank in found if rank is not None]
        if known and len(known) == len(paths) and len(set(known)) == len(known):
            return known
    last = [_last_number(path) for path in paths]
    numbers = [int(text) for text, _ in last if text]
    if len(numbers) == len(paths) == len(set(numbers)):
        is_padded = len({len(text) for text, _ in last}) == 1 and any(text[0] == "0" for text, _ in last)
        is_count = sorted(numbers) == list(range(len(paths))) and not any(stamped for _, stamped in last)
        if is_count or (is_padded and len(last[0][0]) > 1):
            return numbers
    ranks = [0] * len(paths)
    for rank, index in enumerate(sorted(range(len(paths)), key=lambda index: _natural(str(paths[index])))):
        ranks[index] = rank
    return ranks


def _natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d{1,18})", text)]


def _told(pattern: re.Pattern[str], path: Path) -> int | None:
    """By the file's own name, else by the folders it is in, the nearest first."""
    for name in (path.name, path.parent.name, path.parent.parent.name):
        found = pattern.findall(name)
        if found:
            return int(found[-1])
    return None


def _last_number(path: Path) -> tuple[str, bool]:
    """The number that a name ends in, "" where it is a step's; and whether a time stands behind it."""
    name = _SUFFIXES.sub("", path.name)
    stem = _STAMP.sub("", name)
    match = _LAST_NUMBER.search(stem) or _WHOLE_NUMBER.search(path.parent.name)
    return ("" if match is None or _NO_RANK.search(stem) else match[1]), stem != name
