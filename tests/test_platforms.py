"""A system that the package does not run on gets one clear error, whatever is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["spamo_cache", "spamo_cache.io", "spamo_cache.cli.main"])
def test_a_system_without_posix_locks_gets_one_clear_error(module: str) -> None:
    code = f"import sys; sys.modules['fcntl'] = None; import {module}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode == 1
    assert last.startswith("ImportError: spamo-cache runs on Linux")
    assert "WSL" in last
    assert "No module named" not in ran.stderr
