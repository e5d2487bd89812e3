"""Environments of the systems that run outside ours: where they are, what they lack, how one is made."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import tomli_w
from msgspec import Struct

from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.safe_files import read_toml
from tgsbench.system.child import safe_environment
from tgsbench.system.config import config_dir
from tgsbench.systems import registry
from tgsbench.systems.spec import EnvironmentRecipe, External, release_of

_ASK_S = 60.0
"""A cold disk takes seconds to start an interpreter; none takes a minute."""
_CUDA_GB = 4.5
"""What a CUDA build of torch and its libraries take on disk beyond a CPU build (torch 2.14.1)."""
_ASK = (
    "import json, os, sys\n"
    "from importlib import metadata, util\n"
    "def version(name):\n"
    "    try: return metadata.version(name)\n"
    "    except metadata.PackageNotFoundError: return ''\n"
    "def there(path):\n"
    "    found = util.find_spec(path.partition('/')[0])\n"
    "    roots = found.submodule_search_locations or () if found else ()\n"
    "    return any(os.path.exists(os.path.join(root, '..', path)) for root in roots)\n"
    "said = {n: ('there' if there(n) else '') if '/' in n else version(n) for n in sys.argv[1:]}\n"
    "print(json.dumps({'python': sys.version.split()[0], **said}))\n"
)

_ASK_SITE = (
    "import sys\n"
    "from importlib import util\n"
    "from pathlib import Path\n"
    "print(Path(util.find_spec(sys.argv[1]).origin).parents[1])\n"
)


class EngineEnvironment(Struct, frozen=True, kw_only=True):
    """The environment that a system would run in."""

    system: str
    python: str = ""
    """Interpreter, or empty when none was named and none was made."""
    named: bool = False
    """Whether the user named it."""
    versions: dict[str, str] = {}
    missing: list[str] = []


class SharedTorch(Struct, frozen=True, kw_only=True):
    """A build of torch in another environment, which a system's own can be made over."""

    python: str
    version: str
    site_packages: str


def find_environment(system: str, on_virtual_gpu: bool = False) -> EngineEnvironment:
    """The named interpreter, else the one that `engines setup` made, and what it lacks.

    On a virtual GPU the one that was made for it goes first.
    """
    named = named_python(system)
    python = named or str(_chosen_python(system, on_virtual_gpu))
    if not Path(python).exists():
        return EngineEnvironment(
            system=system, python=named, named=bool(named), missing=[_absent(system, named)]
        )
    recipe = find_recipe(system)
    try:
        versions = installed_versions(python, recipe.needs + recipe.modules)
    except TgsError as error:
        return EngineEnvironment(system=system, python=python, named=bool(named), missing=[error.msg])
    missing = [f"package {name} in {python}" for name in recipe.needs if not versions.get(name)]
    if not missing:
        missing = [f"{path} in {python}" for path in recipe.modules if not versions.get(path)]
    return EngineEnvironment(
        system=system,
        python=python,
        named=bool(named),
        versions={n: version for n, version in versions.items() if version and n not in recipe.modules},
        missing=missing,
    )


def require(system: str, on_virtual_gpu: bool = False) -> EngineEnvironment:
    """The environment of a system that can run; TgsError with the command that makes one."""
    environment = find_environment(system, on_virtual_gpu)
    if environment.missing:
        raise TgsError(
            f"engine {system} cannot run here: {'; '.join(environment.missing)}",
            hint=f"{setup_command(system)}{' --virtual-gpu' * on_virtual_gpu}, "
            "or name a Python that has it: --python PATH",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        )
    return environment


def untested(environment: EngineEnvironment) -> str:
    """What to know of a release that is not the tested one; empty where both have one minor version."""
    recipe = find_recipe(environment.system)
    distribution = recipe.needs[0]
    found = environment.versions.get(distribution, "")
    if not found or release_of(found)[:2] == release_of(recipe.version)[:2]:
        return ""
    return f"{distribution} {found} is installed, and {recipe.version} was tested"


def named_python(system: str) -> str:
    """Interpreter that the user named for a system, from engines.toml; empty when none."""
    path = config_path()
    if not path.exists():
        return ""
    table = read_toml(path).get(system, {})
    return str(table.get("python", "")) if isinstance(table, dict) else ""


def name_python(system: str, python: Path) -> None:
    """Keep an interpreter for a system in engines.toml.

    Raises TgsError when it is not there or the file cannot be written.
    """
    find_recipe(system)
    if not python.exists():
        raise TgsError(f"{python}: no such interpreter", hint="name the bin/python of an environment")
    path = config_path()
    document = read_toml(path) if path.exists() else {}
    document[system] = {"python": str(python.absolute())}
    tables = {n: {"python": str(t.get("python", ""))} for n, t in document.items() if isinstance(t, dict)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(tomli_w.dumps(tables), "utf-8")
    except OSError as error:
        raise TgsError(f"{path}: {error.strerror}", exit_code=ExitCode.STORE) from error


def config_path() -> Path:
    """Where named interpreters are kept."""
    return config_dir() / "engines.toml"


def made_python(system: str, for_virtual_gpu: bool = False) -> Path:
    """Interpreter of the environment that `engines setup` makes for a system."""
    return environment_dir(system, for_virtual_gpu) / "bin" / "python"


def environment_dir(system: str, for_virtual_gpu: bool = False) -> Path:
    """Folder of a system's environment under XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    name = f"{system}-{find_recipe(system).version}" + "-virtual-gpu" * for_virtual_gpu
    return Path(base) / "tgsbench" / "engines" / name


def _chosen_python(system: str, on_virtual_gpu: bool) -> Path:
    special = made_python(system, for_virtual_gpu=True)
    return special if on_virtual_gpu and special.exists() else made_python(system)


def extensions_dir(system: str, python: str) -> Path:
    """Folder of the torch extensions that one interpreter builds for a system."""
    mark = hashlib.sha256(python.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return environment_dir(system).parent / "extensions" / f"{system}-{mark}"


def find_recipe(system: str) -> EnvironmentRecipe:
    """The recipe of a system; TgsError for one that has no environment of its own."""
    launches = {spec.name: spec.launch for spec in registry.engines()}
    launch = launches.get(system)
    if isinstance(launch, External):
        return launch.recipe
    known = [name for name, launch in launches.items() if isinstance(launch, External)]
    problem = f"{system!r} has no environment of its own; {nearest(system, known)}"
    raise TgsError(problem, hint="tgsbench engines")


def setup_command(system: str) -> str:
    """The command that makes a system's environment."""
    given = " --source PATH" if find_recipe(system).source else ""
    return f"tgsbench engines setup {system}{given}"


def install_argv(
    system: str, source: Path | None = None, torch: SharedTorch | None = None
) -> list[list[str]]:
    """What `engines setup` runs inside the new environment; `source` alone, without what it asks for.

    Over another environment's `torch` that release is asked for, and pip finds it there.
    """
    pip = [str(made_python(system, torch is not None)), "-m", "pip", "install"]
    given = [[*pip, "--no-deps", str(source.absolute())]] if source else []
    asked = list(find_recipe(system).requirements)
    if torch is not None:
        asked = [f"torch==={torch.version}", *(each for each in asked if not _is_torch(each))]
    return [[*pip, *asked], *given]


def check_source(system: str, source: Path | None) -> None:
    """Raise TgsError where a checkout or a wheel is needed and not given, or given and not needed.

    A checkout is a folder with a pyproject.toml or a setup.py.
    """
    asked = find_recipe(system).source
    if source is None and not asked:
        return
    if source is None:
        raise TgsError(f"{system} is on no package index: it needs {asked}", hint=setup_command(system))
    if not asked:
        raise TgsError(f"{system} is installed from the package index", hint="leave --source out")
    is_checkout = any((source / name).is_file() for name in ("pyproject.toml", "setup.py"))
    if not is_checkout and not (source.is_file() and source.suffix == ".whl"):
        raise TgsError(f"{source}: neither a checkout nor a wheel", hint=f"name {asked}")


def plan_text(system: str, torch: SharedTorch | None = None) -> str:
    """What `engines setup` is about to do, how much disk and time it took where it was tried."""
    is_shared = torch is not None
    recipe, folder = find_recipe(system), environment_dir(system, is_shared)
    begun = "going on with" if made_python(system, is_shared).exists() else "making"
    if torch is not None:
        return f"{begun} {folder} over torch {torch.version} of {torch.python}"
    least_gb, most_gb = recipe.disk_gb, recipe.disk_gb + _CUDA_GB
    sizes = f"{least_gb:g} GB with a CPU build of torch, {most_gb:g} GB with a CUDA one"
    size = f", about {sizes}" if recipe.disk_gb else ""
    took = f", {recipe.minutes:g} minutes on two cores" if recipe.minutes else ""
    return f"{begun} {folder}{size}{took}"


def create(
    system: str,
    say: Callable[[str], None],
    source: Path | None = None,
    torch: SharedTorch | None = None,
) -> Path:
    """Make a system's environment and install it, or go on where that was cut off; pip writes to stderr.

    Over another environment's `torch` it takes all packages from there that fit, and adds the others.

    Raises TgsError for a Python that the release does not support, a checkout or a wheel that is needed and
    not given, or when pip fails.
    """
    recipe, folder = find_recipe(system), environment_dir(system, torch is not None)
    python = made_python(system, torch is not None)
    check_source(system, source)
    if sys.version_info[:2] >= recipe.below_python:
        raise TgsError(
            f"{system} {recipe.version} needs Python below {'.'.join(map(str, recipe.below_python))}, "
            f"this is {sys.version.split()[0]}",
            hint="make an environment with an older Python and name it: --python PATH",
            exit_code=ExitCode.UNSUPPORTED,
        )
    say(plan_text(system, torch))
    try:
        _make_empty(folder, clear=not python.exists(), torch=torch)
        for argv in install_argv(system, source, torch):
            _install(argv)
    except (OSError, subprocess.CalledProcessError) as error:
        raise TgsError(f"{folder}: {error}", exit_code=ExitCode.STORE) from error
    return python


def _make_empty(folder: Path, *, clear: bool, torch: SharedTorch | None) -> None:
    """A venv; over another environment's torch by its Python, with its packages behind the own ones."""
    if torch is None:
        import venv  # here, for it brings logging to every command that runs something

        venv.create(folder, with_pip=True, clear=clear)
        return
    subprocess.run([torch.python, "-m", "venv", *["--clear"] * clear, str(folder)], check=True)
    own = next(folder.glob("lib/python3*/site-packages"))
    (own / "shared_torch.pth").write_text(torch.site_packages + "\n", "utf-8")


def site_of(python: str, module: str) -> str:
    """Folder that another interpreter would import a module from; nothing of the module is run.

    Raises TgsError when the interpreter does not start, or has no such module.
    """
    try:
        done = subprocess.run(
            [python, "-I", "-c", _ASK_SITE, module], capture_output=True, timeout=_ASK_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise TgsError(f"{python} does not say where its {module} is: {error}") from error
    return os.fsdecode(done.stdout.strip())


def _is_torch(requirement: str) -> bool:
    return re.split(r"[^\w-]", requirement, maxsplit=1)[0] == "torch"


def installed_versions(python: str, names: tuple[str, ...]) -> dict[str, str]:
    """Versions of distributions in another interpreter, and its own; empty where one is not installed.

    Raises TgsError when the interpreter does not start, or is no Python.
    """
    try:
        done = subprocess.run(
            [python, "-I", "-c", _ASK, *names], capture_output=True, timeout=_ASK_S, check=False
        )
        return msgspec.json.decode(done.stdout, type=dict[str, str])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TgsError(f"{python} does not start: {error}") from error
    except msgspec.DecodeError as error:
        raise TgsError(f"{python} is no Python that answers") from error


def _install(argv: list[str]) -> None:
    done = subprocess.run(
        argv, env=safe_environment(), stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False
    )
    if done.returncode:
        raise TgsError(f"pip ended with exit code {done.returncode}", exit_code=ExitCode.MISSING_DEPENDENCY)


def _absent(system: str, named: str) -> str:
    return f"{named}: no such interpreter" if named else f"an environment with {system}"
