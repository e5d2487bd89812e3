"""`python -m tgsbench` is `tgsbench`."""

import _signal as signal  # type: ignore[import-not-found]  # built in: signal imports enum first, for 5 ms
import os
import sys

_INTERRUPTED = 130


def _leave(_signum: int, _frame: object) -> None:
    os.write(2, b"error: interrupted\n")
    os._exit(_INTERRUPTED)


# Until the command listens for it, Ctrl-C ends the imports with a word and no traceback. A SIGINT that the
# parent had ignored, as nohup does, stays ignored.
_listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _listens:
    signal.signal(signal.SIGINT, _leave)

if __name__ == "__main__" and not sys.flags.safe_path:
    # `python -m` puts the current folder first: a queue.py that lies there would be taken for Python's own.
    del sys.path[0]
if "" in (os.environ.get("PYTHONPATH") or "-").split(os.pathsep):  # an empty entry is that folder, too
    here = os.path.abspath(os.curdir)  # noqa: PTH100 - pathlib is not imported yet
    sys.path[:] = [entry for entry in sys.path if entry not in ("", here)]

import atexit  # noqa: E402
import gc  # noqa: E402

# Imports make objects that live on: to look through them every 700 is a twentieth of a command's start, and
# once at 20,000, which a plan needs, as much again.
gc.set_threshold(100_000, 10, 10)
atexit.register(gc.freeze)  # what is left at the end is given back whole, without looking through it thrice

from tgsbench.cli import main as cli  # noqa: E402
from tgsbench.system.child import safe_environment  # noqa: E402


def main() -> None:
    """Run the command line."""
    os.environ.update(safe_environment())  # for what libraries start: pools, servers, compilers
    cli.main(listens=_listens)


if __name__ == "__main__":
    main()
