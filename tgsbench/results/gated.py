"""A preset that is held against its baseline: its runs, and what they say."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from tgsbench.errors import ExitCode
from tgsbench.metrics.gate import Decision
from tgsbench.results import repeats
from tgsbench.results.rows import Row
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Result


class Gated(Struct, kw_only=True):
    """One preset, its baseline, its runs so far and what they say."""

    preset: Preset
    baseline: Row | None = None
    """None while baselines themselves are measured."""
    results: list[Result] = []
    took_s: float = 0.0
    """Seconds that its runs took, start and end included."""
    decision: Decision | None = None
    why: str = ""
    """Why there is no decision: a run that failed, other work than the baseline's, a disturbed machine."""
    exit_code: int = ExitCode.OK
    is_over: bool = False

    @property
    def quiet(self) -> list[float]:
        """TGS of the runs that count, in their order."""
        good = [result for result in self.results if result.status == "ok" and not result.disturbances]
        return [result.tgs.median for result in good if result.tgs.median]

    @property
    def num_disturbed(self) -> int:
        """Runs that another load on the machine spoilt."""
        return sum(bool(result.disturbances) for result in self.results)

    @property
    def row(self) -> Row:
        """All its runs as one row."""
        return repeats.row_of(self.preset.name, self.results)


_STRONGEST = (ExitCode.WORSE, ExitCode.NOT_COMPARABLE, ExitCode.DISTURBED)


def exit_code(found: Sequence[Gated]) -> int:
    """A failed run before a regression, that before rows that do not compare, that before undecided ones."""
    codes = [each.exit_code for each in found if each.exit_code]
    failed = [code for code in codes if code not in _STRONGEST]
    return failed[0] if failed else next((int(code) for code in _STRONGEST if code in codes), ExitCode.OK)
