"""Data sets of the Hugging Face hub: the reference's corpus, Alpaca in English and Chinese, and any other."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.workload.blocks import Source, bad_data, tables, wanted_columns
from tgsbench.workload.rows import CorpusRow, has_answer

DATASETS: dict[str, tuple[str, str, str]] = {
    "tatsu-lab/alpaca": ("instruction", "input", "output"),
    "silk-road/alpaca-data-gpt4-chinese": ("instruction_zh", "input_zh", "output_zh"),
}
"""Data set -> its columns for instruction, input and output."""
_PROBE_S = 6.0
"""A reachable hub answers in well under a second; an unreachable one must not hold up the run."""


_BLOCK_ROWS = 1000


class HubUnavailable(Exception):
    """The corpus cannot be had now; the message says why."""


def require() -> None:
    """Raise HubUnavailable within seconds unless the data sets can be read or were downloaded before."""
    problem = _problem()
    if problem and not _all_downloaded():
        raise HubUnavailable(problem)


def problem() -> str:
    """Why the hub cannot be reached, or an empty string; within seconds."""
    return _problem()


def read_rows() -> list[CorpusRow]:
    """Read both data sets; raises HubUnavailable when one cannot be had."""
    datasets = _datasets(offline=bool(_problem()))
    rows: list[CorpusRow] = []
    for name, columns in DATASETS.items():
        table = _load(datasets, name)
        missing = [column for column in columns if column not in table.column_names]
        if missing:
            raise HubUnavailable(f"{name} has no column {', '.join(missing)}")
        texts = ([text or "" for text in table[column]] for column in columns)
        rows += [row for row in map(CorpusRow, *texts) if has_answer(row)]
    return rows


class HubData(NamedTuple):
    """A data set of the hub."""

    fingerprint: str
    source: Source


@cache
def open_dataset(corpus: str) -> HubData:
    """The data set NAME:SPLIT or OWNER/NAME/CONFIG:SPLIT, from the local cache or the hub; it runs no code.

    Raises TgsError when it cannot be had, or has no column that we read.
    """
    name, _, split = corpus.rpartition(":")
    parts = name.split("/")
    config = parts.pop() if len(parts) == 3 else None
    datasets = _datasets(offline=bool(_problem()), what=f"data set {name}")
    try:
        table = datasets.load_dataset("/".join(parts), config, split=split)
    except _load_errors() as error:
        raise bad_data(
            f"{corpus}: {_first_line(error)}",
            "give the run access to the hub, or a file: --set workload.corpus=PATH",
        ) from error
    columns = wanted_columns(list(table.column_names), corpus)
    table = table.select_columns(columns).with_format("arrow")
    size = int(table.data.nbytes)
    source = Source(f"{corpus}: row ", "a data set of the hub", lambda: tables(table.iter(_BLOCK_ROWS)), size)
    return HubData(str(table._fingerprint), source)


def _load_errors() -> tuple[type[Exception], ...]:
    import huggingface_hub.errors

    return OSError, ValueError, RuntimeError, huggingface_hub.errors.HfHubHTTPError


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]


def _load(datasets: Any, name: str) -> Any:
    try:
        return datasets.load_dataset(name, split="train")
    except _load_errors() as error:
        raise HubUnavailable(f"{name}: {_first_line(error)}") from error


def _problem() -> str:
    """Why the hub cannot be reached, or an empty string."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return "HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    answers: list[str] = []
    # In a thread: the name lookup has no time limit of its own.
    probe = threading.Thread(target=lambda: answers.append(_ask(endpoint)), daemon=True)
    probe.start()
    probe.join(_PROBE_S)
    return answers[0] if answers else f"{endpoint} did not answer in {_PROBE_S:.0f} s"


def _ask(endpoint: str) -> str:
    if not endpoint.startswith(("https://", "http://")):
        return f"HF_ENDPOINT={endpoint} is no web address"
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_PROBE_S):
            return ""
    except urllib.error.HTTPError:
        return ""  # it answered
    except (OSError, ValueError) as error:
        return f"{endpoint}: {getattr(error, 'reason', error)}"


def _all_downloaded() -> bool:
    try:
        import huggingface_hub.constants as constants
    except ImportError as error:
        raise _missing() from error
    folders = [f"datasets--{name.replace('/', '--')}" for name in DATASETS]
    return all((Path(constants.HF_HUB_CACHE) / folder).is_dir() for folder in folders)


def _datasets(offline: bool, what: str = "corpus alpaca") -> Any:
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "20")
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "10")
    try:
        import datasets
        import huggingface_hub.constants
    except ImportError as error:
        raise _missing(what) from error
    if offline:
        datasets.config.HF_HUB_OFFLINE = True
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    return datasets


def _missing(what: str = "corpus alpaca") -> TgsError:
    return TgsError(
        f"{what} needs the package datasets, which is not installed",
        hint=f"{pip_install('train')}, or take random tokens: --set workload.corpus=lengths",
        exit_code=ExitCode.MISSING_DEPENDENCY,
    )
