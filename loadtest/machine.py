"""Where the numbers come from: machine, load and versions."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Self

_CPUINFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a reader must know to judge the numbers.

    Attributes:
        cores: this process may use.
        load: one-minute load average before the first run: what else was going on.
    """

    cpu: str
    cores: int
    load: float
    kernel: str
    python: str
    gamebroker: str
    nats_py: str
    uvloop: str
    nats_server: str = ""

    @classmethod
    def here(cls) -> Self:
        """This one, now."""
        return cls(
            cpu=_cpu_model(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
            load=round(os.getloadavg()[0], 2),
            kernel=f"{platform.system()} {platform.release()}",
            python=f"{platform.python_implementation()} {platform.python_version()}",
            gamebroker=metadata.version("gamebroker"),
            nats_py=metadata.version("nats-py"),
            uvloop=metadata.version("uvloop"),
        )

    @property
    def told(self) -> str:
        """In a line of a report."""
        server = f", nats-server {self.nats_server}" if self.nats_server else ""
        return (
            f"{self.cpu}, {self.cores} cores, load {self.load:g} before, {self.kernel}, {self.python}, "
            f"gamebroker {self.gamebroker}, uvloop {self.uvloop}{server}"
        )


def _cpu_model() -> str:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
