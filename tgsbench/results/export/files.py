"""Runs as JSON lines, Parquet, MLflow's file store, or a W&B offline folder."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.results.export import tensorboard_log
from tgsbench.results.export.series import Series, flat_rows

_NAMESPACE = uuid.UUID("6f0c7d5e-3e2b-5b35-9d0a-0f2a6c1e7b11")
"""So that a run has the same MLflow number each time it is exported."""
_EXPERIMENT = "1"


def export(series: Sequence[Series], form: str, target: Path) -> None:
    """Write runs in one form; TgsError when a package is missing or the target is there already."""
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise TgsError(f"{target} already exists", hint="choose another --to", exit_code=ExitCode.STORE)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        FORMS[form](series, target)
    except OSError as error:
        raise TgsError(f"{target}: {error.strerror or error}", exit_code=ExitCode.STORE) from error


def _jsonl(series: Sequence[Series], target: Path) -> None:
    rows = [row for one in series for row in flat_rows(one)]
    target.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows), "utf-8")


def _parquet(series: Sequence[Series], target: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise _missing("pyarrow", pip_install("train")) from error
    rows = [row for one in series for row in flat_rows(one)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    pyarrow.parquet.write_table(pyarrow.table(columns), str(target))


def _mlflow(series: Sequence[Series], target: Path) -> None:
    """MLflow's file store: mlflow ui --backend-store-uri file:TARGET."""
    experiment = target / _EXPERIMENT
    experiment.mkdir(parents=True)
    location = experiment.resolve().as_uri()
    _yaml(
        experiment / "meta.yaml",
        {
            "artifact_location": location,
            "creation_time": _ms(min((one.result.created_unix for one in series), default=0.0)),
            "experiment_id": _EXPERIMENT,
            "last_update_time": _ms(max((one.result.created_unix for one in series), default=0.0)),
            "lifecycle_stage": "active",
            "name": "tgsbench",
        },
    )
    for one in series:
        _mlflow_run(one, experiment, location)


def _mlflow_run(series: Series, experiment: Path, location: str) -> None:
    result = series.result
    number = uuid.uuid5(_NAMESPACE, result.run_id).hex
    folder = experiment / number
    for sub in ("metrics", "params", "tags", "artifacts"):
        (folder / sub).mkdir(parents=True)
    end_unix = series.steps[-1].unix_t if series.steps else result.created_unix
    finished, failed = 3, 4
    _yaml(
        folder / "meta.yaml",
        {
            "artifact_uri": f"{location}/{number}/artifacts",
            "end_time": _ms(end_unix),
            "entry_point_name": "",
            "experiment_id": _EXPERIMENT,
            "lifecycle_stage": "active",
            "run_id": number,
            "run_name": result.run_id,
            "run_uuid": number,
            "source_name": "tgsbench",
            "source_type": 4,
            "source_version": "",
            "start_time": _ms(result.created_unix),
            "status": finished if result.status in ("ok", "emulated") else failed,
            "tags": [],
            "user_id": "",
        },
    )
    for name, value in series.settings.items():
        (folder / "params" / name).write_text(str(value), "utf-8")
    tags = {"mlflow.runName": result.run_id, "tgsbench.status": result.status}
    tags |= {f"tgsbench.{name}": text for name, text in series.facts.items()}
    for name, text in tags.items():
        (folder / "tags" / name).write_text(text, "utf-8")
    lines: dict[str, list[str]] = {
        figure.full_name: [f"{_ms(end_unix)} {figure.value!r} 0"] for figure in series.figures
    }
    for row in series.steps:
        for name, value in row.figures.items():
            lines.setdefault(f"{row.phase}.{name}", []).append(f"{_ms(row.unix_t)} {value!r} {row.step}")
    for name, points in lines.items():
        (folder / "metrics" / name).write_text("\n".join(points) + "\n", "utf-8")


def _wandb_offline(series: Sequence[Series], target: Path) -> None:
    """A folder for `wandb sync`; the package writes it, nothing is sent."""
    try:
        import wandb
    except ImportError as error:
        raise _missing("wandb", "pip install wandb") from error
    target.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        mode="offline", silent=True, console="off", x_disable_stats=True, disable_git=True
    )
    for one in series:
        run = wandb.init(
            project="tgsbench",
            name=one.result.run_id,
            config={**one.settings, **one.facts},
            dir=str(target),
            settings=settings,
            reinit="finish_previous",
        )
        for row in one.steps:
            run.log({f"{row.phase}/{name}": value for name, value in row.figures.items()}, step=row.step)
        run.summary.update({"status": one.result.status, **{f.full_name: f.value for f in one.figures}})
        run.finish(exit_code=0 if one.result.status in ("ok", "emulated") else 1)


def _tensorboard(series: Sequence[Series], target: Path) -> None:
    for one in series:
        tensorboard_log.write(one, target / one.result.run_id)


READERS = {
    "mlflow": "MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri file:{target}"
    "  (newer MLflow, 3.17 for one, refuses a folder of runs without that variable; "
    "`mlflow migrate-filestore` moves it into a database)",
    "wandb-offline": "wandb sync {target}/wandb/offline-run-*",
    "tensorboard": "tensorboard --logdir {target}",
    "parquet": "pandas.read_parquet({target!r})",
    "jsonl": "pandas.read_json({target!r}, lines=True)",
}
"""What opens each form."""

FORMS: dict[str, Callable[[Sequence[Series], Path], None]] = {
    "jsonl": _jsonl,
    "parquet": _parquet,
    "mlflow": _mlflow,
    "wandb-offline": _wandb_offline,
    "tensorboard": _tensorboard,
}


def _yaml(path: Path, document: dict[str, Any]) -> None:
    """Flat YAML; JSON's strings and numbers are YAML's."""
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in document.items()), "utf-8")


def _ms(unix_t: float) -> int:
    return round(unix_t * 1000)


def _missing(package: str, command: str) -> TgsError:
    return TgsError(
        f"this form needs the package {package}", hint=command, exit_code=ExitCode.MISSING_DEPENDENCY
    )
