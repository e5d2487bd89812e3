"""Builds the virtual device: our C++ sources, and a stub for every other call that this torch may make."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from pathlib import Path

from tgsbench.errors import ExitCode, TgsError
from tgsbench.virtual_gpu.installation import Installation, cache_dir

_SOURCES = Path(__file__).resolve().parent / "device"
_LIBRARY = "libtgsbench_virtual_gpu.so"
_STANDS_FOR = ("libcuda.so.1", "libnvidia-ml.so.1")
"""Libraries of the driver, which no wheel brings; whoever loads them gets the device."""
_STUBBED = re.compile(r"^(__cuda|cuda|cublas|cusparse|cusolver|cufft|curand|cudnn|nccl|cu(?!File)[A-Z])\w*$")
_DRIVER = re.compile(r"^cu[A-Z]")
_NOT_SUPPORTED = 801
"""CUDA_ERROR_NOT_SUPPORTED."""
_ENTRY_POINT = re.compile(rb"\0(cu[A-Z][a-zA-Z0-9]{3,60}(?:_v\d)?)(?=\0)")
"""torch asks the runtime for the driver's functions by name."""
_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-Wall", "-Wextra", "-fvisibility=hidden")
_HEADERS = (
    "nvidia/cu13/include",
    "nvidia/cuda_runtime/include",
    "nvidia/cublas/include",
    "nvidia/nccl/include",
    "triton/backends/nvidia/include",
)
_CALL = re.compile(r"\b(cu[A-Z]\w+)\(")
_COMPILE_S = 600


def ensure_built(installation: Installation) -> Path:
    """Folder with the device and the names it stands for; built at the first use, some 20 s.

    It is kept under the user's cache by version of torch and CUDA and by what the sources are. Raises
    TgsError (exit code 6) with the compiler's words when it cannot be built.
    """
    folder = cache_dir() / "built" / _key(installation)
    if (folder / _LIBRARY).exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            _build(installation, Path(scratch), made)
            _publish(made, folder)
    except OSError as error:
        raise TgsError(f"{folder}: {error.strerror or error}", exit_code=ExitCode.STORE) from error
    return folder


def library_of(folder: Path) -> Path:
    """The library to preload."""
    return folder / _LIBRARY


def stub_source(names: list[str]) -> str:
    """C++ of calls that the device does not know: each is told by its name.

    The driver's are for hardware that is not there (fabric, multicast, IPC) and say so; a library's are
    answered as if they had been done, so that the run goes on and its result can name them.
    """
    lines = [
        "// Calls that torch may make and the device does not know: each is reported by its name.",
        "namespace vgpu { void unknown_call(const char* name); }",
        "#define STUB(NAME, ANSWER) \\",
        '  extern "C" __attribute__((visibility("default"))) long NAME() {'
        " vgpu::unknown_call(#NAME); return ANSWER; }",
    ]
    stubs = (f"STUB({name}, {_NOT_SUPPORTED if _DRIVER.match(name) else 0})" for name in sorted(names))
    return "\n".join([*lines, *stubs, ""])


def symbols(path: Path, *, defined: bool) -> set[str]:
    """Dynamic symbols that a library lacks, or symbols that an object file defines, without versions."""
    flags = ["--defined-only"] if defined else ["-D", "--undefined-only"]
    done = _run(["nm", *flags, str(path)])
    return {line.split()[-1].partition("@")[0] for line in done.splitlines() if line.split()}


def _key(installation: Installation) -> str:
    digest = hashlib.sha256()
    for source in (Path(__file__), *sorted(_SOURCES.iterdir())):
        digest.update(source.name.encode() + source.read_bytes())
    return f"torch-{installation.torch}-cuda-{installation.cuda_runtime}-{digest.hexdigest()[:12]}"


def _build(installation: Installation, scratch: Path, made: Path) -> None:
    site = Path(installation.site_packages)
    includes = [f"-I{site / folder}" for folder in _HEADERS if (site / folder).is_dir()]
    sources = sorted(_SOURCES.glob("*.cpp"))
    objects = [scratch / f"{source.stem}.o" for source in sources]
    for source, target in zip(sources, objects, strict=True):
        _run(["g++", *_FLAGS, "-c", str(source), *includes, "-o", str(target)])
    stubs = scratch / "stubs.cpp"
    stubs.write_text(stub_source(_unanswered(site, objects)), "utf-8")
    libraries = [str(path) for path in (*objects, stubs)]
    _run(["g++", *_FLAGS, "-shared", *libraries, "-o", str(made / _LIBRARY), "-ldl", "-lpthread"])
    for name in _STANDS_FOR:
        (made / name).symlink_to(_LIBRARY)


def _unanswered(site: Path, objects: list[Path]) -> list[str]:
    """What torch's libraries ask for and the sources do not answer."""
    answered = {name for path in objects for name in symbols(path, defined=True)}
    answered |= {name.partition("_v")[0] for name in answered if _DRIVER.match(name)}
    torch_lib = site / "torch/lib"
    asked = {name for path in torch_lib.glob("*.so") for name in symbols(path, defined=False)}
    launcher = site / "triton/backends/nvidia/driver.c"  # compiled with the first kernel
    if launcher.exists():
        asked |= set(_CALL.findall(launcher.read_text("utf-8")))
    allocator = torch_lib / "libc10_cuda.so"
    if allocator.exists():
        asked |= {match.decode() for match in _ENTRY_POINT.findall(allocator.read_bytes())}
    if not any(name.startswith("cuda") for name in asked):
        raise TgsError(
            f"torch in {site} asks for no CUDA runtime: it is a CPU build",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        )
    return [name for name in asked - answered if _STUBBED.match(name)]


def _publish(made: Path, folder: Path) -> None:
    """Move the finished folder to its place; another process may have been first."""
    try:
        made.replace(folder)
    except OSError:
        if not (folder / _LIBRARY).exists():
            raise


def _run(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_COMPILE_S, check=False)
    except FileNotFoundError as error:
        raise TgsError(
            f"the virtual GPU cannot be built: there is no {argv[0]}",
            hint="install a C++ compiler, such as Debian's package g++",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        ) from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()[-3:]
        raise TgsError(
            f"the virtual GPU cannot be built: {' '.join(argv[:1])} says {' '.join(said[:3])}",
            hint="`tgsbench doctor --virtual-gpu` says what it needs",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        )
    return done.stdout
