"""The reference's corpus, Alpaca in English and Chinese, from the Hugging Face hub."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.workload.rows import CorpusRow, has_answer

DATASETS: dict[str, tuple[str, str, str]] = {
    "tatsu-lab/alpaca": ("instruction", "input", "output"),
    "silk-road/alpaca-data-gpt4-chinese": ("instruction_zh", "input_zh", "output_zh"),
}
"""Data set -> its columns for instruction, input and output."""
_PROBE_S = 6.0
"""A reachable hub answers in well under a second; an unreachable one must not hold up the run."""


class HubUnavailable(Exception):
    """The corpus cannot be had now; the message says why."""


def require() -> None:
    """Raise HubUnavailable within seconds unless the data sets can be read or were downloaded before."""
    problem = _problem()
    if problem and not _all_downloaded():
        raise HubUnavailable(problem)


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


def _load(datasets: Any, name: str) -> Any:
    import huggingface_hub.errors

    try:
        return datasets.load_dataset(name, split="train")
    except (OSError, ValueError, RuntimeError, huggingface_hub.errors.HfHubHTTPError) as error:
        first_line = (str(error) or repr(error)).splitlines()[0]
        raise HubUnavailable(f"{name}: {first_line}") from error


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


def _datasets(offline: bool) -> Any:
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "20")
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "10")
    try:
        import datasets
        import huggingface_hub.constants
    except ImportError as error:
        raise _missing() from error
    if offline:
        datasets.config.HF_HUB_OFFLINE = True
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    return datasets


def _missing() -> TgsError:
    return TgsError(
        "corpus alpaca needs the package datasets, which is not installed",
        hint=f"{pip_install('train')}, or take random tokens: --set workload.corpus=lengths",
        exit_code=ExitCode.MISSING_DEPENDENCY,
    )
