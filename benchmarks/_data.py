"""What the data benchmarks share: real files, and where a result goes."""

import datetime
import importlib.util
import json
import os
import pathlib
import platform

RESULTS = pathlib.Path(__file__).parent / "results"


def package_folder(name) -> pathlib.Path:
    """The folder of an installed package, without importing it."""
    return pathlib.Path(importlib.util.find_spec(name).submodule_search_locations[0])


def stdlib_folder() -> pathlib.Path:
    return pathlib.Path(os.__file__).parent


def site_packages_files(packages, limit=None):
    """Texts of the Python files of packages that are 500 bytes and more, by path."""
    texts = []
    for package in packages:
        for path in sorted(package_folder(package).rglob("*.py")):
            data = path.read_bytes()
            if len(data) >= 500:
                texts.append(data.decode("utf-8", "replace"))
            if limit and len(texts) >= limit:
                return texts
    return texts


def device() -> str:
    model = ""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{model or platform.processor()}, {len(os.sched_getaffinity(0))} cores"


def record(name, figures):
    """Print figures and write them beside device and date."""
    result = {
        "device": device(),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        **figures,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
