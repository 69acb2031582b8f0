"""What does Prometheus see? What all processes have counted, and what the system knows of them.

To be imported once PROMETHEUS_MULTIPROC_DIR is set: the library looks for it when it is imported.
"""

import os
import platform
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from prometheus_client import Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from backend import __version__


class Processes(MultiProcessCollector):
    """Adds up what the processes write into files of this directory.

    The gauges of those that were killed are left out of the sum: they could not do so themselves.
    """

    def __init__(self, directory: str) -> None:
        super().__init__(None, directory)  # type: ignore[no-untyped-call]
        self._directory = Path(directory)
        self._cpu: dict[int, float] = {}  # also of processes that have ended: a counter must not fall

    def collect(self) -> Iterator[Metric]:
        living = {os.getpid()}
        for file in self._directory.glob("gauge_live*_*.db"):
            pid = int(file.stem.rpartition("_")[2])
            if _lives(pid):
                living.add(pid)
            else:
                mark_process_dead(pid)  # type: ignore[no-untyped-call]
        yield from super().collect()  # type: ignore[no-untyped-call]
        yield InfoMetricFamily(
            "todo_build", "What runs.", {"version": __version__, "python": platform.python_version()}
        )
        yield from self._system(living)

    def _system(self, living: set[int]) -> Iterator[Metric]:
        values = defaultdict(list)
        for pid in living:
            for metric in ProcessCollector("todo", partial(int, pid), registry=None).collect():
                values[metric.name].append(metric.samples[0].value)
                if metric.name == "todo_process_cpu_seconds":
                    self._cpu[pid] = metric.samples[0].value
        yield CounterMetricFamily("todo_process_cpu_seconds", "CPU time of all processes.", sum(self._cpu.values()))
        for name, text, joined in (
            ("todo_process_resident_memory_bytes", "Memory of all processes.", sum),
            ("todo_process_open_fds", "Open files of all processes.", sum),
            ("todo_process_start_time_seconds", "Unix time at which the oldest process began.", min),
        ):
            if name in values:  # only Linux tells
                yield GaugeMetricFamily(name, text, joined(values[name]))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
