"""Who may talk to a server on this machine's loopback address: whoever was told its address, first."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

HOST: Final = "127.0.0.1"
_COOKIE: Final = "tgsbench-pass"
_NUM_BYTES: Final = 24
"""Of a secret: 192 bits, which nobody guesses."""

Headers = Mapping[str, str]


class Refusal(Exception):
    """Why a request is turned away, as the browser shows it."""


@dataclass
class Gate:
    """Lets in the one browser that opens the printed address first, and nobody else.

    The address holds a secret folder. Its first opening is answered with a cookie that only this folder's
    pages send back; from then on the address alone opens nothing. Every request must name this machine by
    its loopback address, and may not come from another site's page.

    It does not keep out this user's other processes, which can read the terminal and the browser's memory,
    nor root. What goes over the loopback interface is not encrypted.
    """

    folder: str = field(default_factory=lambda: f"/{secrets.token_urlsafe(_NUM_BYTES)}")
    """The path under which everything lies: starts with a slash, ends without one."""
    _pass: str = field(default_factory=lambda: secrets.token_urlsafe(_NUM_BYTES), repr=False)
    _is_opened: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def admit(self, port: int, method: str, path: str, headers: Headers) -> str:
        """Look at one request before anything answers it; the Set-Cookie header to answer with, or "".

        `headers` are looked up by the names Host, Origin and Cookie. Raises Refusal when it is turned away.
        """
        here = f"{HOST}:{port}"
        if headers.get("Host") != here:
            raise Refusal(
                f"this server answers at {here} only: forward the same port (ssh -L {port}:{here} …)"
            )
        if headers.get("Origin", f"http://{here}") != f"http://{here}":
            raise Refusal("another site's page may not ask this server for anything")
        if not _same(path[: len(self.folder) + 1], f"{self.folder}/"):
            raise Refusal(
                "open the whole address that was printed when this server started, its last slash included"
            )
        if _same(_cookie(headers.get("Cookie", "")), self._pass):
            return ""
        return self._hand_out_pass(method, path)

    def _hand_out_pass(self, method: str, path: str) -> str:
        with self._lock:
            if method != "GET" or path != f"{self.folder}/" or self._is_opened:
                raise Refusal(
                    "this address was opened already, and works in that browser only: "
                    "end the server and start it again for a new one"
                )
            self._is_opened = True
        return f"{_COOKIE}={self._pass}; Path={self.folder}/; HttpOnly; SameSite=Strict"


def _same(given: str, wanted: str) -> bool:
    """Equal, in a time that does not tell how much of it is."""
    return secrets.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _cookie(header: str) -> str:
    """The pass among the cookies that a browser sent; "" without one."""
    pairs = (part.strip().partition("=") for part in header.split(";"))
    return next((value for name, _, value in pairs if name == _COOKIE), "")
