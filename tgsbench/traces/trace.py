"""Reads Kineto traces in chunks: plain or gzip, in memory that does not grow with the file.

The events of a chunk are decoded into structs that name the few fields wanted; the parser skips the rest
(decoding all arguments takes 2–3.5 times as long). Chunks of 4 MiB and their events stay in the cache.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast

import msgspec
from msgspec import Struct

from tgsbench.errors import ExitCode, TgsError
from tgsbench.traces import native
from tgsbench.traces.columns import Columns, of_events
from tgsbench.traces.event import Event
from tgsbench.traces.event_boundary import exact_end, likely_end, likely_piece
from tgsbench.traces.files import READ_ERRORS, open_trace

T = TypeVar("T")

CHUNK: Final = 4 << 20
MAX_HEAD: Final = 16 << 20
"""Room for what stands before the events: the process groups of some thousand ranks."""
MAX_EVENT: Final = 32 << 20
"""No event of a real trace comes near; without a limit memory would not be bounded."""
_KEY: Final = b'"traceEvents"'

_QUICK: Final = msgspec.json.Decoder(list[Event])
_LENIENT: Final = msgspec.json.Decoder(Event, strict=False)
_WHOLE_QUICK: Final = msgspec.json.Decoder(list[dict[str, Any]])
_WHOLE_ONE: Final = msgspec.json.Decoder(dict[str, Any])
_NOT_QUICK: Final = (msgspec.DecodeError, UnicodeDecodeError)


class TracedGroup(Struct):
    """One entry of distributedInfo's pg_config."""

    pg_name: str = ""
    pg_desc: str = ""
    ranks: list[int] = []


class Distributed(Struct):
    """What the trace says about the job."""

    backend: str = ""
    rank: int | None = None
    world_size: int = 1
    pg_config: list[TracedGroup] = []


class Head(Struct):
    """What stands before the events; a part of an unexpected type is as good as missing."""

    distributed: Distributed | None = None
    device_name: str = ""
    base_ns: int = 0
    host: str = ""


class TraceReader:
    """One pass over one trace; the counts are known at the end, and `head` is whole there.

    Most programs write what is in the head before the events; some write it after them.
    """

    def __init__(
        self, path: Path, whole_events: bool = False, on_read: Callable[[int], None] = lambda got: None
    ) -> None:
        """`whole_events`: events come as dictionaries with all that the file says. `on_read` is told how many
        unpacked bytes came in."""
        self._on_read = on_read
        self.path = path
        self._quick: msgspec.json.Decoder[Any]
        self._one: msgspec.json.Decoder[Any]
        self._quick, self._one = (_WHOLE_QUICK, _WHOLE_ONE) if whole_events else (_QUICK, _LENIENT)
        self.head = Head()
        self.num_bytes = 0
        """Decompressed."""
        self.num_events = 0
        self.num_broken = 0
        """Events that are no objects of the expected types."""
        self._buffer, self._spare = bytearray(CHUNK), bytearray(CHUNK)
        self._filled = 0
        self._scanner: native.Scanner | None = None

    def columns(self) -> Iterator[Columns]:
        """Events in file order as columns, as `chunks`: by the compiled scanner where there is one.

        It scans a chunk while its caller is at the one before, for it holds no lock of the interpreter's.
        """
        self._scanner = native.scanner_for(self.path)
        batches = self._batches()
        try:
            for batch in batches if self._scanner is None else _ahead(batches):
                yield batch if isinstance(batch, Columns) else of_events(batch)
        finally:
            if self._scanner is not None:
                self._scanner.close()
            self._scanner = None

    def chunks(self) -> Iterator[list[Any]]:
        """Events in file order, some ten thousand at a time; TgsError for what is no whole trace."""
        return cast(Iterator[list[Any]], self._batches())

    def _batches(self) -> Iterator[list[Any] | Columns]:
        try:
            with open_trace(self.path) as stream:
                self._read_head(stream)
                yield from self._read_events(stream)
                self._read_tail(stream)
        except READ_ERRORS as error:
            if isinstance(error, RecursionError):
                raise self._error("is nested too deeply to be a trace") from error
            raise self._error(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def _read_events(self, stream: BinaryIO) -> Iterator[list[Any] | Columns]:
        at_end = False
        while True:
            end, events = self._decode(likely_end(self._buffer, self._filled))
            closed = False
            if events is None and (end or at_end or self._filled == len(self._buffer)):
                end, closed = exact_end(self._buffer, self._filled)
                events = self._carefully(end) if end else None
            if events is not None:
                self.num_events += len(events)
                yield events
                del events
                self._keep_from(end)
            if closed:
                return
            if at_end:
                raise self._error(
                    f"is cut off after {self.num_events:,} events ({self.num_bytes:,} bytes)",
                    "its rank was killed, or its disk was full, while it wrote",
                )
            at_end = self._fill(stream, MAX_EVENT, "holds an event of more than {} MiB") == 0

    def _decode(self, end: int) -> tuple[int, list[Any] | Columns | None]:
        """Events up to `end`, without a copy: for the moment the comma there closes an array."""
        if not end:
            return 0, None
        scanned = self._scanner.scan(self._buffer, 1, end) if self._scanner is not None else None
        if scanned is not None:
            return end, scanned
        buffer, after = self._buffer, self._buffer[end]
        buffer[0], buffer[end] = ord("["), ord("]")
        try:
            with memoryview(buffer) as view:
                return end, self._quick.decode(view[: end + 1])
        except _NOT_QUICK:
            return end, None
        finally:
            buffer[end] = after

    def _carefully(self, end: int) -> list[Any]:
        """Events up to `end` where some are unlike torch's: one by one, broken ones counted."""
        text = b"[" + bytes(self._buffer[1:end]) + b"]"
        try:
            items = json.loads(text.decode("utf-8", "replace"), strict=False)
        except ValueError as error:
            raise self._error(f"holds broken JSON after {self.num_events:,} events: {error}") from error
        events = []
        for item in items:
            try:
                events.append(self._one.decode(msgspec.json.encode(_tidied(item))))
            except (ValueError, OverflowError):
                self.num_broken += 1
        return events

    def _read_head(self, stream: BinaryIO) -> None:
        """Parse what stands before the events; the buffer then begins with their opening bracket."""
        while True:
            got = self._fill(stream, MAX_HEAD, "holds no traceEvents in its first {} MiB")
            start = self._events_start()
            if start is not None:
                self._keep_from(start)
                return
            if not got:
                raise self._error("holds no traceEvents" if self._filled else "is empty")

    def _read_tail(self, stream: BinaryIO) -> None:
        """Take from what stands behind the events what the head left open; a broken end does no harm."""
        if self.head.distributed is not None and self.head.device_name:
            return
        try:
            while self._filled < MAX_HEAD and self._fill(stream, MAX_HEAD, "ends in more than {} MiB"):
                pass
            rest = bytes(self._buffer[: self._filled])
            found = _head(json.loads(b'{"":[' + rest[rest.index(b"]") :], strict=False))
        except (*READ_ERRORS, ValueError, TgsError):
            return
        for name in ("distributed", "device_name", "base_ns", "host"):
            setattr(self.head, name, getattr(self.head, name) or getattr(found, name))

    def _events_start(self) -> int | None:
        buffer, filled = self._buffer, self._filled
        first = bytes(buffer[:256]).removeprefix(BOM_UTF8).lstrip()[:1] if filled else b""
        if first == b"[":
            return buffer.index(b"[")
        if first not in (b"{", b"", b"\0"):
            raise self._error("is no JSON")
        at = buffer.find(_KEY, 0, filled)
        while at >= 0:
            bracket = buffer.find(b"[", at, filled)
            if bracket < 0:
                return None
            is_key = bytes(buffer[at + len(_KEY) : bracket]).strip() == b":"
            if is_key and self._parse_head(bytes(buffer[:at])):
                return bracket
            at = buffer.find(_KEY, at + 1, filled)
        return None

    def _parse_head(self, text: bytes) -> bool:
        try:
            found = json.loads((text + _KEY + b":[]}").decode("utf-8-sig", "replace"), strict=False)
        except ValueError:
            return False
        self.head = _head(found)
        return True

    def _fill(self, stream: BinaryIO, limit: int, complaint: str) -> int:
        """Read more behind what is there; the buffer doubles up to `limit` when it is full."""
        if self._filled == len(self._buffer):
            if self._filled >= limit:
                raise self._error(complaint.format(limit >> 20))
            self._buffer = self._buffer + bytearray(len(self._buffer))
        with memoryview(self._buffer) as view:
            got = cast(int, stream.readinto(view[self._filled :]))  # type: ignore[attr-defined]
        self._filled += got
        self.num_bytes += got
        self._on_read(got)
        return got

    def _keep_from(self, start: int) -> None:
        """Go on in the other buffer: whoever has the events of this one may still look into it."""
        rest = self._filled - start
        if len(self._spare) <= rest:
            self._spare = bytearray(len(self._buffer))
        with memoryview(self._buffer) as view:
            self._spare[:rest] = view[start : self._filled]
        self._buffer, self._spare = self._spare, self._buffer
        self._filled = rest

    def _error(self, why: str, hint: str = "") -> TgsError:
        hint = hint or "a trace is what torch.profiler's export_chrome_trace writes: .json, packed or not"
        return TgsError(f"{self.path}: {why}", hint=hint, exit_code=ExitCode.BAD_INPUT)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; a thread makes the next one while the last is in use."""
    with ThreadPoolExecutor(1, "tgsbench-trace") as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def decode_piece(data: bytes) -> list[Any]:
    """Events in the middle of a trace; empty where its layout is none of the usual ones."""
    try:
        return _QUICK.decode(b"[" + likely_piece(data) + b"]")
    except _NOT_QUICK:
        return []


def _tidied(item: Any) -> Any:
    """An event without what some writers put in it: null for no arguments, blanks around a time."""
    if isinstance(item, dict):
        if item.get("args", "") is None:
            del item["args"]
        for key in ("ts", "dur"):
            if isinstance(item.get(key), str):
                item[key] = item[key].strip()
    return item


def _head(found: Any) -> Head:
    if not isinstance(found, dict):
        return Head()
    devices = found.get("deviceProperties")
    device = devices[0] if isinstance(devices, list) and devices else None
    base_ns = found.get("baseTimeNanoseconds")
    host = found.get("host_name")
    return Head(
        distributed=_converted(_anywhere(found, "distributedInfo")),
        device_name=_text(device.get("name")) if isinstance(device, dict) else "",
        base_ns=base_ns if isinstance(base_ns, int) else 0,
        host=_text(host),
    )


def _anywhere(found: Any, key: str, depth: int = 4) -> Any:
    """A key's value at the top or, as programs that wrap torch's document write it, some levels below."""
    if not isinstance(found, dict) or not depth:
        return None
    if isinstance(found.get(key), dict):
        return found[key]
    inner = (_anywhere(value, key, depth - 1) for value in found.values())
    return next((value for value in inner if value is not None), None)


def _converted(found: Any) -> Distributed | None:
    try:
        return msgspec.convert(found, Distributed | None, strict=False)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return None


def _text(found: Any) -> str:
    """A string that can be written: half a surrogate pair cannot."""
    return found.encode("utf-8", "replace").decode() if isinstance(found, str) else ""
