"""tgsbench measures how fast language models train on long sequences.

- `tgsbench.run("tiny_cpu", {"measure.steps": 6})` measures a preset, as `tgsbench run` does;
  `repeats=5` measures it five times in fresh processes and returns the runs with the spread between them.
- `tgsbench.plan("llama2_70b_1M")` forecasts one.
- `tgsbench.profile("latest")` says where a run's time goes.
- `tgsbench.compare("latest", "xtuner:llama2_7b_32k")` compares runs, forecasts and published rows.
- `tgsbench.load_run("latest")` reads a stored result.
"""

from __future__ import annotations

# Nothing else is imported: under `python -m` this runs before __main__ takes the current folder off the path.
from tgsbench.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from tgsbench.api import compare, load_run, plan, profile, run
    from tgsbench.errors import ExitCode, TgsError

__version__ = VERSION
__all__ = ["ExitCode", "TgsError", "compare", "load_run", "plan", "profile", "run"]

_ERRORS = ("ExitCode", "TgsError")


def __getattr__(name: str) -> Any:
    """Import the API when it is first asked for: every command imports this module, few of them all of it."""
    if name not in __all__:
        raise AttributeError(f"module 'tgsbench' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("tgsbench.errors" if name in _ERRORS else "tgsbench.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
