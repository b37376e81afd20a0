"""What this machine offers: Python, torch, GPU, disk space, weights, roots of stores."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from spamo_cache import config, devices, extras, io
from spamo_cache.doctor.findings import Diagnosis, Finding, diagnosis
from spamo_cache.errors import SpamoError
from spamo_cache.store.roots import stores_in

PACKAGES = ("torch", "transformers", "peft", "zarr", "numpy", "pyarrow", "sacrebleu")
STAGE_ONE = {
    "open_clip": "open_clip_torch",
    "torchvision": "torchvision",
    "av": "av",
    "dask": "dask",
}
"""Modules that only ``extract`` needs, and the packages that bring them."""

GIB = 1 << 30


def examine(roots: Sequence[str] | None = None) -> Diagnosis:
    """Check this machine; nothing is downloaded, changed or kept.

    Args:
        roots: roots of feature stores; those of ``SPAMO_CACHE`` if not given.

    Returns:
        Findings, and the facts ``python``, ``packages``, ``devices``, ``cpus``, ``weights`` (each
        with its SHA-256) and ``roots`` (each with its free bytes; remote ones with their number of
        stores).
    """
    packages = {name: _version(name) for name in (*PACKAGES, *STAGE_ONE.values())}
    gpus, trouble = _gpus()
    root_facts = {root: _root_facts(root) for root in (config.roots() if roots is None else roots)}
    facts = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": devices.cpu_cores(),
        "packages": packages,
        "devices": gpus,
        "weights": _weights(),
        "roots": root_facts,
    }
    findings = [*_package_findings(packages), *trouble, *_root_findings(root_facts)]
    return diagnosis(findings, facts)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _package_findings(packages: dict[str, str | None]) -> Iterator[Finding]:
    for name in PACKAGES:
        if packages[name] is None:
            yield Finding("error", f"{name} is not installed", "Python", "reinstall spamo-cache")
    absent = [module for module in STAGE_ONE if not extras.is_there(module)]
    if absent:
        lacking = f"stage 1 cannot run here: {', '.join(absent)} not installed"
        yield Finding("note", lacking, "Python", extras.how_to_install(absent[0]))
    version = packages["transformers"]
    if version is not None and _release(version) < (5, 18):
        drops = f"transformers {version} may drop the biases of VideoMAE without an error"
        yield Finding("error", drops, "Python", "install transformers 5.18 or newer")


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _gpus() -> tuple[list[dict[str, Any]], list[Finding]]:
    try:
        import torch  # noqa: PLC0415
    except ImportError as error:
        return [], [Finding("error", f"torch cannot be imported: {error}", "Python")]
    gpus: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        gpus.append({"name": name, "memory_bytes": total, "free_bytes": free})
    if gpus:
        return gpus, []
    remedy = "fine for the bundled corpus; a real one wants a GPU"
    return gpus, [Finding("note", "no GPU: everything runs on the CPU", "torch", remedy)]


def _weights() -> dict[str, str]:
    """Weights that ship with the project or lie in the Hugging Face cache, with their hashes."""
    places = [config.shipped(folder) for folder in ("cache_specs", "pipelines")]
    hashes = {
        f"{place.name}/{path.relative_to(place).as_posix()}": io.file_sha256(path)
        for place in places
        for path in sorted(place.rglob("*.safetensors"))
    }
    home = config.expanded(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    cached = hub.glob("models--*/snapshots/*/*")
    for path in sorted(path for path in cached if path.suffix in (".safetensors", ".bin")):
        # The hub names a weight file's blob by its SHA-256: no need to read gigabytes.
        blob = path.resolve().name
        model = path.parents[2].name.removeprefix("models--").replace("--", "/")
        hashes[f"{model}@{path.parent.name[:12]}/{path.name}"] = (
            blob if blob != path.name else "unknown: a copy"
        )
    return hashes


def _root_facts(root: str) -> dict[str, Any]:
    if "://" in root:
        return _remote(root)
    path = config.expanded(root)
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return {
        "kind": "local",
        "exists": path.is_dir(),
        "writable": nearest.is_dir() and os.access(nearest, os.W_OK),
        "free_bytes": shutil.disk_usage(nearest).free,
    }


def _remote(root: str) -> dict[str, Any]:
    try:
        count = len(stores_in(root))
    except SpamoError as error:
        return {"kind": "remote", "reachable": False, "reason": error.what}
    return {"kind": "remote", "reachable": True, "stores": count}


def _root_findings(places: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    for root, place in places.items():
        if place["kind"] == "remote" and not place["reachable"]:
            yield Finding(
                "warning",
                f"cannot be reached: {place['reason']}",
                root,
                "what it holds will be computed again",
            )
    local = {root: place for root, place in places.items() if place["kind"] == "local"}
    if local and not any(place["writable"] for place in local.values()):
        what = "no root of feature stores can be written"
        yield Finding("error", what, ", ".join(local), "set SPAMO_CACHE to a folder of your own")
    for root, place in local.items():
        if not place["exists"]:
            yield Finding("note", "does not exist yet; extract makes it", root)
        elif not place["writable"]:
            yield Finding("note", "can be read but not written", root)
        if place["writable"] and place["free_bytes"] < 2 * GIB:
            full = f"only {place['free_bytes'] / GIB:.1f} GiB are free"
            yield Finding("warning", full, root, "PHOENIX14T takes 4.2 GB, CSL-Daily 10.8 GB")
