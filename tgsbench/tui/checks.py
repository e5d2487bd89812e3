"""The doctor's checks, for its screen."""

from __future__ import annotations

from tgsbench.system.doctor import Check, run_checks

__all__ = ["Check", "run_checks"]
