"""What a reader needs to compare figures: cores, memory, software, and how busy the machine was before."""

import os
import platform
from pathlib import Path
from typing import Any

import psutil


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
