"""The `tgsbench` command: a lazy group, so that one command imports one module."""

from __future__ import annotations

import importlib
import io
import signal
import sys
from typing import TYPE_CHECKING

import click

from tgsbench.cli import diagnostics, output
from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.launch.schedulers import SCHEDULERS
from tgsbench.version import VERSION

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("tgsbench.cli.run", "Launch a preset and measure its TGS."),
    "plan": ("tgsbench.cli.plan", "Forecast a preset: does it fit, how fast, what to change."),
    "presets": ("tgsbench.cli.presets", "List, show and validate presets."),
    "models": ("tgsbench.cli.models", "Model shapes and what a step of each costs; add a config.json."),
    "data": ("tgsbench.cli.data", "Look at data: lengths in tokens, packs, what sequence lengths they mean."),
    "runs": ("tgsbench.cli.runs", "List and look after stored runs."),
    "show": ("tgsbench.cli.show", "Print one run's result."),
    "tui": ("tgsbench.cli.tui", "The terminal UI (also without a command); --serve for a browser."),
    "attach": ("tgsbench.cli.attach", "Come back to a run in the live view."),
    "replay": ("tgsbench.cli.replay", "Play a stored run again; without one, a recording."),
    **{name: ("tgsbench.cli.jobs", scheduler.summary) for name, scheduler in SCHEDULERS.items()},
    "doctor": ("tgsbench.cli.doctor", "Check this machine: versions, GPUs, links, limits, ranks that talk."),
    "verify": (
        "tgsbench.cli.verify",
        "Prove that a preset computes the right thing before a number is trusted.",
    ),
    "manifest": (
        "tgsbench.cli.manifest",
        "A preset as a job of Kubeflow, JobSet or SkyPilot.",
    ),
    "engines": ("tgsbench.cli.engines", "The engines: can each run here, and what installs the others."),
    "compare": ("tgsbench.cli.compare", "Compare runs, forecasts, published and imported rows."),
    "gate": ("tgsbench.cli.gate", "Hold presets against baselines of this machine, for CI."),
    "sweep": ("tgsbench.cli.sweep", "Run a grid of presets, resumable; search the longest sequence."),
    "tune": ("tgsbench.cli.tune", "The fastest settings for a model, a length and GPUs: plans, then runs."),
    "report": ("tgsbench.cli.report", "Runs beside published and predicted figures: page, table, CSV, JSON."),
    "import": ("tgsbench.cli.import_", "Read another tool's log or table as a row."),
    "export": ("tgsbench.cli.export", "Runs as JSON lines, Parquet, MLflow, W&B offline or TensorBoard."),
    "convention": ("tgsbench.cli.convention", "Find the FLOPs convention behind somebody's TFLOPs."),
    "profile": ("tgsbench.cli.profile", "Where the step's time goes: analyse captured traces."),
    "tensorboard": ("tgsbench.cli.tensorboard", "Captured traces and scalars in TensorBoard, offline."),
    "supervise": ("tgsbench.cli.supervise", ""),
}
"""Command -> module with a click command of the module's name, and its one-line help (empty: hidden); the
schedulers share one module, which makes the command of each."""


class LazyGroup(click.Group):
    """Imports a command's module only when that command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        if cmd_name in SCHEDULERS:
            made: click.Command = module.command(cmd_name)
            return made
        command = getattr(module, module.__name__.rpartition(".")[2])
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command when this one is unknown.

        Raises TgsError when there is no such command.
        """
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise TgsError(f"no command called {args[0]!r}; {nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands from COMMANDS, without importing them."""
        from click.shell_completion import CompletionItem

        named = [(name, text) for name, (_, text) in COMMANDS.items() if text and name.startswith(incomplete)]
        return [CompletionItem(name, help=text) for name, text in named] or click.Command.shell_complete(
            self, ctx, incomplete
        )

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from COMMANDS, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items() if text])


@click.group(
    cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(VERSION, prog_name="tgsbench")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Measure how fast language models train on long sequences.

    Without a command, the terminal UI opens.
    """
    if ctx.invoked_subcommand is None:
        command = LazyGroup.get_command(cli, ctx, "tui")
        assert command is not None
        ctx.invoke(command)


def main(listens: bool = True) -> None:
    """Run the command line; every TgsError becomes one message and its own exit code.

    `listens`: Ctrl-C interrupts the command; else whoever listens for it now, or nobody, goes on to.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a path that no encoding fits
    try:
        if listens:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        cli.main(standalone_mode=False)
    except TgsError as error:
        diagnostics.error(error.msg, error.hint)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        diagnostics.error("interrupted")
        sys.exit(ExitCode.CANCELLED)
    except BrokenPipeError:
        output.detach_stdout()
        sys.exit(ExitCode.OK)
    except Exception as error:  # noqa: BLE001 - the last resort: no user is shown a traceback
        diagnostics.bug(error)
        sys.exit(ExitCode.INTERNAL)
    finally:
        _warn_of_damaged_tables()


def _warn_of_damaged_tables() -> None:
    """Name the files beside the presets that were passed over; a command that read none imports nothing."""
    catalog = sys.modules.get("tgsbench.presets.catalog")
    for problems in catalog.problems_met.values() if catalog is not None else ():
        for problem in problems:
            diagnostics.warn(f"{problem}; passed over")
