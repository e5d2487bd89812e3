"""TensorBoard: scalars a step and hparams of a run, in RUN/tensorboard."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.results.export.series import Series
from tgsbench.schema.run import Status

FOLDER = "tensorboard"
_ENDED: dict[Status, str] = {"ok": "STATUS_SUCCESS", "emulated": "STATUS_SUCCESS"}


def is_installed() -> bool:
    """Can event files be written here?"""
    return importlib.util.find_spec("tensorboard") is not None


def write(series: Series, folder: Path) -> None:
    """Write one event file; TgsError without the package tensorboard, OSError when the disk takes none."""
    if not is_installed():
        raise TgsError(
            "TensorBoard's event files need the package tensorboard",
            hint=pip_install("profile"),
            exit_code=ExitCode.MISSING_DEPENDENCY,
        )
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(folder))
    try:
        for row in series.steps:
            values = {f"{row.phase}/{name}": value for name, value in row.figures.items()}
            _add(writer, event_pb2, row.unix_t, row.step, _scalars(values))
        begin, end = series.result.created_unix, _end_unix(series)
        _add(writer, event_pb2, begin, 0, _session_start(series))
        _add(writer, event_pb2, end, 0, _scalars({figure.tag: figure.value for figure in series.figures}))
        _add(writer, event_pb2, end, 0, _session_end(series, end))
    finally:
        writer.close()


def _end_unix(series: Series) -> float:
    return series.steps[-1].unix_t if series.steps else series.result.created_unix


def _add(writer: Any, event_pb2: Any, unix_t: float, step: int, summary: Any) -> None:
    writer.add_event(event_pb2.Event(wall_time=unix_t, step=step, summary=summary))


def _scalars(values: dict[str, float]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])


def _session_start(series: Series) -> Any:
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    start = plugin_data_pb2.SessionStartInfo(
        group_name=series.result.run_id, start_time_secs=series.result.created_unix
    )
    for name, value in (*series.settings.items(), *series.facts.items()):
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[name].number_value = value
        else:
            start.hparams[name].string_value = value
    return _plugin(metadata.SESSION_START_INFO_TAG, plugin_data_pb2, {"session_start_info": start})


def _session_end(series: Series, end_unix: float) -> Any:
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    status = api_pb2.Status.Value(_ENDED.get(series.result.status, "STATUS_FAILURE"))
    end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=end_unix)
    return _plugin(metadata.SESSION_END_INFO_TAG, plugin_data_pb2, {"session_end_info": end})


def _plugin(tag: str, plugin_data_pb2: Any, content: dict[str, Any]) -> Any:
    """A summary that TensorBoard's hparams plugin reads: its message in the metadata, no value."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import metadata

    data = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **content)
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString())
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))])
