"""`python -m tgsbench` is `tgsbench`."""

import signal

# Until main() turns it into an exit code of its own, Ctrl-C ends the imports without a traceback. A SIGINT
# that the parent had ignored, as nohup does, stays ignored.
_listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _listens:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from tgsbench.cli import main as cli  # noqa: E402


def main() -> None:
    """Run the command line."""
    if _listens:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()


if __name__ == "__main__":
    main()
