"""Acts on signals at once, also while the main thread waits inside a collective.

Python runs signal handlers in the main thread between bytecodes: a rank that waits 12 minutes in a
backward pass, or for ever in an all-to-all, would not hear SIGTERM. The wake-up descriptor is written by
the C handler itself, so a thread that reads it hears every signal.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import threading
from collections.abc import Callable

from tgsbench.events.emitter import Emitter
from tgsbench.schema.events import Bye

_LEAVE = (signal.SIGINT, signal.SIGTERM)


def listen(emitter: Emitter, dump: Callable[[], None]) -> None:
    """End on SIGINT or SIGTERM, saying so; on SIGUSR1 write all stacks to stderr and call `dump`.

    Call it from the main thread, before anything that may block.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for sig in (*_LEAVE, signal.SIGUSR1):
        signal.signal(sig, lambda _signum, _frame: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)
    threading.Thread(target=_serve, args=(reader, emitter, dump), name="signals", daemon=True).start()


def _serve(reader: int, emitter: Emitter, dump: Callable[[], None]) -> None:
    while received := os.read(reader, 1):
        if received[0] in _LEAVE:
            emitter.emit(Bye(status="cancelled"))
            os._exit(128 + received[0])
        if received[0] == signal.SIGUSR1:
            with contextlib.suppress(OSError, RuntimeError):
                dump()
