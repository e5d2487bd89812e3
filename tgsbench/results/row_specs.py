"""Words of the command line -> rows: runs, imported rows, published rows, forecasts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import msgspec

from tgsbench import presets
from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.planner import forecast_preset
from tgsbench.results import imported, repeats, results, rows
from tgsbench.results.rows import Row
from tgsbench.schema.forecast import Forecast
from tgsbench.schema.preset import Preset
from tgsbench.schema.reference import XTUNER
from tgsbench.store.run_dir import RunDir, Store

Forecaster = Callable[[Preset], Forecast]
"""The planner."""

_FORECAST_WORDS = ("predicted", "plan")
_FORMS = f"RUN, PRESET, {XTUNER}:PRESET, published:PRESET, predicted:PRESET or foreign:NAME"
_PUBLISHED = "published"


class RowFinder:
    """Words of one command -> rows; the folders are listed once, however many words there are."""

    def __init__(self, root: Path, forecaster: Forecaster = forecast_preset) -> None:
        self.store = Store(root)
        self._forecaster = forecaster

    @cached_property
    def _imported(self) -> list[str]:
        return imported.names(self.store.root)

    @cached_property
    def _presets(self) -> frozenset[str]:
        return frozenset(presets.list_presets())

    def resolve(self, word: str) -> list[Row]:
        """Rows that a word names.

        `SYSTEM:PRESET` (xtuner:llama2_7b_32k) and `published:PRESET` are published rows, `predicted:PRESET`
        or a preset's name its forecast, `predicted:RUN` the one a run keeps, `foreign:NAME` or a name an
        imported row, and anything else a run: its name, a unique part of it, its folder, or `latest`; or
        the group of runs that `run --repeats` made. Raises TgsError naming what would have been known.
        """
        prefix, colon, name = word.partition(":")
        if colon and prefix == "foreign":
            return [self._foreign(name)]
        if colon and prefix in _FORECAST_WORDS and name not in self._presets:
            return [_kept(self._run(name))]
        if colon and not Path(word).exists():
            return _of_preset(prefix, name, self._forecaster)
        if word in self._imported:
            return [self._foreign(word)]
        if word in self._presets:
            return [_forecast(word, self._forecaster)]
        return [self._of_runs(word)]

    def _of_runs(self, word: str) -> Row:
        """The row of a group of repeated runs where the word names one, or its newest run is `latest`."""
        if repeats.members(self.store, word):
            return repeats.group_row(self.store, word)
        run = self._run(word)
        group = repeats.group_of(run) if word == "latest" else ""
        return repeats.group_row(self.store, group) if group else of_run(run)

    def _foreign(self, name: str) -> Row:
        if name not in self._imported:
            raise TgsError(
                f"no imported row called {name!r}; {nearest(name, self._imported)}",
                hint="tgsbench import FILE reads one",
                exit_code=ExitCode.STORE,
            )
        return imported.load(self.store.root / "foreign" / f"{name}.json").row

    def _run(self, word: str) -> RunDir:
        try:
            return self.store.find(word)
        except TgsError as error:
            others = [*self._presets, *self._imported]
            raise TgsError(
                f"{error.msg}; presets: {nearest(word, others)}",
                hint=_FORMS,
                exit_code=error.exit_code,
            ) from error


def resolve(root: Path, word: str, forecaster: Forecaster = forecast_preset) -> list[Row]:
    """Rows that one word names; see `RowFinder.resolve`."""
    return RowFinder(root, forecaster).resolve(word)


def of_run(run: RunDir) -> Row:
    """The row of one run."""
    result = results.load_result(run)
    preset = run.preset() if result.model is None else None
    return rows.from_result(result, preset)


def published(preset_name: str, system: str = _PUBLISHED) -> list[Row]:
    """Published rows of a preset, of one system or of all.

    Raises TgsError when nobody published such a row.
    """
    preset = presets.resolve(preset_name).preset
    found = presets.load_references().get(preset_name, [])
    systems = sorted({row.system for row in found})
    chosen = [row for row in found if system in (_PUBLISHED, row.system)]
    if not chosen:
        have = f"it has rows of {', '.join(systems)}" if systems else "nobody published one"
        raise TgsError(f"no {system} row for {preset_name}; {have}", exit_code=ExitCode.BAD_INPUT)
    return [rows.from_reference(row, preset) for row in chosen]


def _of_preset(prefix: str, name: str, forecaster: Forecaster) -> list[Row]:
    if prefix in _FORECAST_WORDS:
        return [_forecast(name, forecaster)]
    systems = {row.system for found in presets.load_references().values() for row in found}
    if prefix != _PUBLISHED and prefix not in systems:
        known = [*systems, _PUBLISHED, *_FORECAST_WORDS, "foreign"]
        raise TgsError(
            f"{prefix}:{name}: no such kind of row; {nearest(prefix, known)}",
            hint=_FORMS,
        )
    return published(name, prefix)


def _forecast(name: str, forecaster: Forecaster) -> Row:
    preset = presets.resolve(name).preset
    return rows.from_forecast(preset, forecaster(preset))


def _kept(run: RunDir) -> Row:
    """The forecast that a run keeps, for the device it ran on."""
    result = results.load_result(run)
    if result.forecast is None:
        raise TgsError(
            f"{result.run_id} keeps no forecast",
            hint=f"tgsbench compare {result.run_id} predicted:PRESET makes one now",
            exit_code=ExitCode.STORE,
        )
    row = rows.from_forecast(run.preset(), result.forecast, f"predicted:{result.run_id}")
    return msgspec.structs.replace(row, gpu=of_run(run).gpu)
