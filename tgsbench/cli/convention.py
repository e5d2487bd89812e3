"""`tgsbench convention`: which FLOPs convention do these TFLOPs follow?"""

from __future__ import annotations

import math

import click

from tgsbench import presets, units
from tgsbench.cli import complete, output
from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.metrics import figures
from tgsbench.results.convention import Identified, identify
from tgsbench.schema.hardware import GpuSpec


@click.command()
@click.option(
    "--model",
    shell_complete=complete.models,
    required=True,
    help="Model shape: a name of `tgsbench models`, or a config.json.",
)
@click.option("--seq-len", required=True, help="Sequence length, such as 8192, 8k or 1M.")
@click.option("--tgs", type=float, required=True, help="Their tokens per GPU per second.")
@click.option("--tflops", type=float, help="Their TFLOPs per GPU.")
@click.option("--mfu", type=float, help="Their MFU or HFU in percent instead; needs --gpu.")
@click.option("--gpu", shell_complete=complete.gpus, help="GPU for the MFU, such as H100-SXM5-80GB.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def convention(
    model: str,
    seq_len: str,
    tgs: float,
    tflops: float | None,
    mfu: float | None,
    gpu: str | None,
    as_json: bool,
) -> None:
    """Solve for the FLOPs convention behind somebody's TFLOPs, and say the speed in model terms."""
    given = [value for value in (tgs, tflops, mfu) if value is not None]
    if len(given) != 2 or not all(0 < value < math.inf for value in given):
        raise TgsError("say --tgs and one of --tflops and --mfu, all above 0 and finite")
    peak = known_gpu(gpu) if gpu else None
    stated = tflops if tflops is not None else _from_mfu(mfu or 0.0, peak)
    found = identify(presets.find_model(model), read_length(seq_len), tgs, stated, peak)
    if as_json:
        output.json(found)
        return
    for text in lines(found, peak):
        output.line(text)


def lines(found: Identified, gpu: GpuSpec | None) -> list[str]:
    """The answer on the first line, then what supports it."""
    text = [found.convention or "none of the known conventions (nearest below)"]
    if found.contradiction:
        text.append(f"  contradicts itself: {found.contradiction}")
    text += [f"  also fits: {c.label}" for c in found.fits if c.name != found.convention]
    text.append(f"  in model terms: {model_terms(found, gpu)}")
    if not found.convention and found.packed_len is not None:
        text.append(f"  or model with an attended length of {found.packed_len:,.0f} tokens: packed documents")
    text += [
        f"  {c.label:<30} {units.rate(c.tflops):>8} TFLOPs  {100 * c.deviation:+8.2f} %  {c.formula}"
        for c in found.candidates
    ]
    return text


def model_terms(found: Identified, gpu: GpuSpec | None) -> str:
    """The speed in `model` TFLOPs, and as MFU where the GPU's peak is known."""
    text = f"{units.rate(found.model_tflops)} TFLOPs"
    if gpu is None or found.model_mfu is None:
        return f"{text} (--gpu NAME adds the MFU)"
    return f"{text}, {units.percent(found.model_mfu)} MFU on {gpu.name}"


def _from_mfu(mfu_percent: float, gpu: GpuSpec | None) -> float:
    if gpu is None:
        raise TgsError("--mfu needs --gpu: a share of which peak?")
    return figures.tflops_at_mfu(mfu_percent / 100, gpu)


def known_gpu(name: str) -> GpuSpec:
    """The GPU of that name; TgsError lists the known ones."""
    gpu = presets.find_gpu(name)
    if gpu is None:
        raise TgsError(
            f"no GPU called {name!r}; {nearest(name, presets.load_gpus())}",
            hint="add its datasheet figures as presets/hardware/NAME.toml",
            exit_code=ExitCode.UNKNOWN_HARDWARE,
        )
    return gpu


def read_length(text: str) -> int:
    """A sequence length from the command line.

    Raises TgsError when it is no length such as 32768 or 32k.
    """
    try:
        return units.parse_length(text)
    except ValueError as error:
        raise TgsError(f"--seq-len: {error}") from error
