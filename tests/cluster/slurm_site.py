"""A whole Slurm on this machine: munge, a controller and two node daemons, all in one temporary folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
_CONF = """\
ClusterName=tgs
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=30
MinJobAge=300
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs=2 RealMemory=4000
PartitionName=debug Nodes=ALL Default=YES MaxTime=60 State=UP
"""


class SlurmSite:
    """Starts the daemons; `env` makes Slurm's commands speak to them and to no other cluster."""

    def __init__(self) -> None:
        # Not under pytest's own folder: munge wants every parent to be its owner's or root's alone.
        self.folder = Path(tempfile.mkdtemp(prefix="tgs-slurm-", dir="/tmp"))
        self.env = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def up(self) -> None:
        """Munge first, then the controller and two nodes; skips where that cannot be."""
        missing = [name for name in _PROGRAMS if shutil.which(name, path=_PATH) is None]
        if missing:
            pytest.skip(f"needs {', '.join(missing)}: apt-get install slurm-wlm munge")
        if os.geteuid() != 0:
            pytest.skip("needs root to run slurmd")
        self._munge()
        ports = dict(zip(("port", "port1", "port2"), _free_ports(3), strict=True))
        conf = _CONF.format(host=socket.gethostname(), folder=self.folder, **ports)
        (self.folder / "slurm.conf").write_text(conf)
        (self.folder / "state").mkdir()
        self._start("slurmctld", "-D", "-i")
        for node in ("n1", "n2"):
            self._start("slurmd", "-D", "-N", node)
        self._wait_for_nodes()

    def call(self, *argv: str) -> str:
        """Run one of Slurm's commands."""
        return subprocess.run(
            argv, env={**os.environ, **self.env, "PATH": _PATH}, check=True, capture_output=True, text=True
        ).stdout

    def down(self) -> None:
        """End the daemons that were started here."""
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _munge(self) -> None:
        folder = self.folder / "munge"
        folder.mkdir(mode=0o711)
        self.folder.chmod(0o711)
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o400)
        names = ("socket", "key-file", "pid-file", "log-file", "seed-file")
        files = [f"--{name}={folder / name.removesuffix('-file')}" for name in names]
        self._start("munged", "--foreground", "--force", *files)

    def _start(self, *argv: str) -> None:
        log = (self.folder / f"{argv[0]}.out").open("ab")
        env = {**os.environ, **self.env, "PATH": _PATH}
        self._daemons.append(subprocess.Popen(argv, env=env, stdout=log, stderr=log, start_new_session=True))
        log.close()

    def _wait_for_nodes(self) -> None:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            done = subprocess.run(
                ["sinfo", "-h", "-t", "idle", "-o", "%D"],
                env={**os.environ, **self.env, "PATH": _PATH},
                capture_output=True,
                text=True,
            )
            if done.stdout.strip() == "2":
                return
            time.sleep(0.5)
        logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))
        pytest.fail(f"Slurm's nodes did not come up:\n{logs}")


_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin"


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
