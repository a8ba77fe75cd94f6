"""What a reader needs to compare figures: cores, memory, software, how busy the machine was before; and a program's cost."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

# The peak is asked of the process itself: what the kernel reports at its end counts the parent before `exec` too.
PROGRAM: Final = """
import sys
from {module} import main
status = main(sys.argv[1:])
with open("/proc/self/status") as file:
    peak = next(line.split()[1] for line in file if line.startswith("VmHWM"))
print(peak, file=sys.stderr)
sys.exit(status)
"""


def machine() -> dict[str, Any]:
    """The machine as plain values; ask before measuring, or the load is one's own."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
    }


def machine_line(found: dict[str, Any]) -> str:
    return (
        f"{found['cores']} x {found['processor']}, {found['memory_gib']} GiB, Python {found['python']}, "
        f"load before {found['load_before']}"
    )


def measured(
    module: str, arguments: Sequence[str], *, root: Path, prefix: Sequence[str] = (), accepted: Collection[int] = (0,)
) -> dict[str, Any]:
    """One run of `module.main(arguments)`, which prints JSON: seconds, processor seconds, peak MiB, and what it printed (`found`).

    `prefix` stands before the interpreter. `RuntimeError` for a status that is not `accepted`: its figures would mean nothing.
    """
    command = [*prefix, sys.executable, "-c", PROGRAM.format(module=module), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    begun, before = time.monotonic(), os.times()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    seconds, after = time.monotonic() - begun, os.times()
    if done.returncode not in accepted:
        raise RuntimeError(f"{module} {arguments[0]} ended with {done.returncode}: {done.stdout[-500:]} {done.stderr[-500:]}")
    return {
        "seconds": seconds,
        "cpu_seconds": after.children_user + after.children_system - before.children_user - before.children_system,
        "mib": int(done.stderr.split()[-1]) / 1024,
        "found": json.loads(done.stdout),
    }
