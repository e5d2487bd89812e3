"""Reads event files as they grow: torn lines wait, damage and unknown types are counted, nothing raises."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import msgspec

from tgsbench.errors import ExitCode, TgsError
from tgsbench.events.native import GLANCE, line_scanner
from tgsbench.events.step_columns import RankBatch, condensed
from tgsbench.install import upgrade
from tgsbench.safe_files import harmless, harmless_json, is_plain_json, open_regular
from tgsbench.schema.events import PROTOCOL_VERSION, Event, Step

_WHOLE = msgspec.json.Decoder(Event)
_CHUNK = 4 << 20
PIECE_BYTES = 1 << 16
"""Read from each file in turn, so that steps of all ranks close soon after each other."""
_MAX_LINE = 16 << 20
"""A longer line without an end is damage, not an event that is still being written."""
_MAX_DAMAGED = 256 << 20
_MAX_AHEAD = 4096
_RANK_FILE = re.compile(r"^rank(\d{5,6})\.jsonl$")
_NODE_FILE = re.compile(r"^node(\d{5,6})\.jsonl$")
_POLL_S = 0.1
_SLOWEST_POLL_S = 1.0
_RANKS_PER_POLL = 64


_Decoder = msgspec.json.Decoder[Any]


def poll_period_s(world_size: int) -> float:
    """Seconds between looks at the files: ten a second for 64 ranks, one a second from 640 on.

    One look at 1,024 files that all grew takes 40 ms of one core.
    """
    return min(_SLOWEST_POLL_S, _POLL_S * max(1.0, world_size / _RANKS_PER_POLL))


class _Head(msgspec.Struct):
    v: int = PROTOCOL_VERSION
    type: str = ""


_HEAD_DECODER = msgspec.json.Decoder(_Head)


class FilePosition(msgspec.Struct, array_like=True):
    """How far a file was read, and what was seen in it: all that a tail needs to go on."""

    position: int = 0
    torn: bytes = b""
    expected_seq: int = 0
    ahead: set[int] = msgspec.field(default_factory=set)
    skipped: int = 0
    """Lines of unknown type, damaged lines, duplicates and lines of another rank."""
    at_end: bool = False
    """Whether the last read came to the end of what is written."""
    num_damaged: int = 0
    """Bytes passed over in lines without an end."""
    has_gaps: bool = False
    """Whether there were holes in the file, or lines that never came and are no longer waited for."""


class FileTail:
    """One rank's event file from its beginning, a piece at a time."""

    def __init__(self, path: Path, place: FilePosition | None = None) -> None:
        self.path = path
        self.rank = rank_of(path.name)
        """Whose file it is, as `rank_of` says."""
        self.place = place or FilePosition()

    @property
    def skipped(self) -> int:
        """Lines skipped so far."""
        return self.place.skipped

    @property
    def at_end(self) -> bool:
        """Whether the last read came to the end of what is written."""
        return self.place.at_end

    @property
    def is_incomplete(self) -> bool:
        """Whether lines before others never came, or the last line that was read has no end.

        A rank that is at work may be in the middle of either.
        """
        place = self.place
        return bool(place.torn or place.ahead or place.has_gaps)

    def num_unread(self) -> int:
        """Bytes that are there and were not read; 0 for a file that cannot be looked at."""
        try:
            return max(0, self.path.stat().st_size - self.place.position)
        except OSError:
            return 0

    def read(self, max_bytes: int = _CHUNK) -> list[Event]:
        """Events that were completed since the last call, from at most `max_bytes` new bytes.

        Raises TgsError when the file was written by a newer major protocol version.
        """
        return self._decoded(self._new_lines(max_bytes), _WHOLE)

    def read_batch(self, max_bytes: int = _CHUNK) -> RankBatch | None:
        """The same, condensed to what the live view shows: read by the compiled scanner where there is one,
        decoded where it leaves them. None: nothing is new.

        Raises TgsError as `read` does.
        """
        lines = self._new_lines(max_bytes)
        return self._scanned(lines) or condensed(self._decoded(lines, GLANCE))

    def _new_lines(self, max_bytes: int) -> bytes:
        """Whole lines; the beginning of one that is still being written waits for its rest."""
        data = self._new_bytes(max_bytes)
        if not data:
            return b""
        data = self.place.torn + data
        end = data.rfind(b"\n") + 1
        self.place.torn = data[end:]
        if len(self.place.torn) > _MAX_LINE:
            self._pass_over_line()
        return data[:end]

    def _scanned(self, lines: bytes) -> RankBatch | None:
        place = self.place
        if not lines or self.rank is None or place.ahead or not is_plain_json(lines):
            return None
        scanner = line_scanner()
        batch = scanner.scan(lines, self.rank, place.expected_seq) if scanner else None
        if batch is not None:
            place.expected_seq += batch.num_events
        return batch

    def _decoded(self, lines: bytes, decoder: _Decoder) -> list[Event]:
        if is_plain_json(lines):
            return self._decode_all(lines, decoder)
        return [harmless(event) for event in self._decode_all(harmless_json(lines), decoder)]

    def _pass_over_line(self) -> None:
        """Give up a line without an end, and after many megabytes of such lines all but the file's end."""
        place = self.place
        place.num_damaged += len(place.torn)
        place.torn = b""
        place.skipped += 1
        if place.num_damaged > _MAX_DAMAGED:
            place.position += max(0, self.num_unread() - _MAX_LINE)

    def read_last(self, num_bytes: int) -> list[Event]:
        """The events in the last `num_bytes` of the file, for a look at its end; ends this tail."""
        try:
            self.place.position = max(0, self.path.stat().st_size - num_bytes)
        except OSError:
            return []
        return self.read(num_bytes)

    def _decode_all(self, lines: bytes, decoder: _Decoder) -> list[Event]:
        """Decode lines: all at once where nothing is odd about them (0.6 µs an event), else one by one."""
        try:
            events: list[Event] = decoder.decode_lines(lines)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._decode_each(lines, decoder)
        first, end = self.place.expected_seq, self.place.expected_seq + len(events)
        in_order = [event.seq for event in events] == list(range(first, end))
        mine = self.rank is None or [event.rank for event in events].count(self.rank) == len(events)
        if not (in_order and mine) or self.place.ahead:
            return self._decode_each(lines, decoder)
        self.place.expected_seq = end
        return events

    def _decode_each(self, lines: bytes, decoder: _Decoder) -> list[Event]:
        decoded = (self._decode(line, decoder) for line in lines.split(b"\n"))
        return [event for event in decoded if event is not None]

    def read_to_end(self) -> Iterator[list[Event]]:
        """Pieces up to what is the end now, past any damage."""
        position = -1
        while position != self.place.position:
            position = self.place.position
            if events := self.read():
                yield events

    def _new_bytes(self, max_bytes: int) -> bytes:
        place = self.place
        was_at_end, place.at_end = place.at_end, True
        try:  # to look at its size is 8 times cheaper than to open it
            if was_at_end and self.path.stat().st_size == place.position:
                return b""
            fd = open_regular(self.path)
        except OSError:
            return b""
        try:
            size = os.fstat(fd).st_size
            if size < place.position:
                place.position, place.torn = 0, b""  # truncated: read again, duplicates are skipped
            begun = _past_hole(fd, place.position, size)
            place.has_gaps |= begun > place.position
            place.position = begun
            data = os.pread(fd, max_bytes, place.position)
        except OSError:
            return b""
        finally:
            os.close(fd)
        place.position += len(data)
        place.at_end = len(data) < max_bytes
        return data

    def _decode(self, line: bytes, decoder: _Decoder) -> Event | None:
        if not line.strip():
            return None
        try:
            event: Event = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.place.skipped += 1
            _refuse_newer(line, self.path)
            return None
        if not self._is_mine(event.rank) or not self._is_new(event.seq):
            self.place.skipped += 1
            return None
        return event

    def _is_mine(self, rank: int) -> bool:
        """Every line of rank00003.jsonl speaks for rank 3: figures of one rank never count twice."""
        return self.rank is None or rank == self.rank

    def _is_new(self, seq: int) -> bool:
        """Remember which sequence numbers were seen, in constant memory while they arrive in order."""
        place = self.place
        if seq == place.expected_seq:
            place.expected_seq += 1
            self._pass_seen()
            return True
        if seq < place.expected_seq or seq in place.ahead:
            return False
        place.ahead.add(seq)
        if len(place.ahead) > _MAX_AHEAD:  # the lines before the nearest are lost: wait for them no more
            place.expected_seq, place.has_gaps = min(place.ahead), True
            self._pass_seen()
        return True

    def _pass_seen(self) -> None:
        place = self.place
        while place.expected_seq in place.ahead:
            place.ahead.remove(place.expected_seq)
            place.expected_seq += 1


def _past_hole(fd: int, position: int, size: int) -> int:
    """The next byte that was written: a file of terabytes may hold nothing between two lines.

    `size` was asked before: what is appended meanwhile is not passed over.
    """
    try:
        return os.lseek(fd, position, os.SEEK_DATA)
    except OSError as error:  # ENXIO: nothing more was written; others: the file system cannot tell
        return size if error.errno == errno.ENXIO else position


class RunTail:
    """All ranks of one run; files that appear later join in."""

    def __init__(self, events_dir: Path) -> None:
        self._dir = events_dir
        self._files: dict[str, FileTail] = {}

    @property
    def skipped(self) -> int:
        """Lines skipped so far, over all ranks."""
        return sum(tail.skipped for tail in self._files.values())

    @property
    def incomplete(self) -> list[str]:
        """Names of the files that are incomplete so far: see `FileTail.is_incomplete`."""
        return sorted(name for name, tail in self._files.items() if tail.is_incomplete)

    @property
    def at_end(self) -> bool:
        """Whether the last poll came to the end of every file."""
        return all(tail.at_end for tail in self._files.values())

    def tails(self) -> list[FileTail]:
        """The files that are there now."""
        self._discover()
        return list(self._files.values())

    def poll(self, max_bytes: int = _CHUNK) -> list[Event]:
        """New events of all ranks, each rank's in its order, from at most `max_bytes` of each file."""
        self._discover()
        return [event for tail in self._files.values() for event in tail.read(max_bytes)]

    def batches(
        self, max_bytes: int = _CHUNK, is_ahead: Callable[[int], bool] | None = None
    ) -> Iterator[RankBatch]:
        """The same condensed, a batch of each rank: folded at once, it is still in the processor's cache.

        A file whose rank `is_ahead` waits while the others have something: of a rank that also writes
        samples, the same bytes hold fewer steps. Where the others have nothing, waiting would not help.
        """
        self._discover()
        waiting, any_read = [], False
        for tail in self._files.values():
            if is_ahead is not None and is_ahead(tail.rank or 0):
                waiting.append(tail)
            elif batch := tail.read_batch(max_bytes):
                any_read = True
                yield batch
        for tail in [] if any_read else waiting:
            if batch := tail.read_batch(max_bytes):
                yield batch

    def read_all(self) -> Iterator[Event]:
        """Every event that is there now, a piece of the rank that is least far in turn.

        Few steps wait for their ranks so: of pieces in turns, a rank that writes shorter lines is ever
        further ahead (by 29,000 of 800,000 steps where lines differ by 4 %).
        """
        self._discover()
        pieces = [tail.read_to_end() for tail in self._files.values()]
        due = [(0, index) for index in range(len(pieces))]
        while due:
            num_steps, index = heappop(due)
            if events := next(pieces[index], None):
                yield from events
                num_steps += sum(isinstance(event, Step) for event in events)
                heappush(due, (num_steps, index))

    def _discover(self) -> None:
        if self._dir.is_symlink():
            return
        try:
            names = sorted(path.name for path in self._dir.iterdir())
        except OSError:
            return
        for name in names:
            if name not in self._files and rank_of(name) is not None:
                self._files[name] = FileTail(self._dir / name)


def rank_of(name: str) -> int | None:
    """Rank that an event file's name speaks of; -1 and down: a node's supervisor; None: another file."""
    if match := _RANK_FILE.match(name):
        return int(match[1])
    match = _NODE_FILE.match(name)
    return -1 - int(match[1]) if match else None


def _refuse_newer(line: bytes, path: Path) -> None:
    try:
        head = _HEAD_DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if head.v > PROTOCOL_VERSION:
        raise TgsError(
            f"{path}: written with event protocol {head.v}; this tgsbench reads up to {PROTOCOL_VERSION}",
            hint=f"upgrade tgsbench: {upgrade()}",
            exit_code=ExitCode.STORE,
        )
