"""``make setup`` says what it is about to do: installing takes minutes, in which nothing else is seen."""

import os
import shutil
import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PYTHON = """#!/bin/sh
echo "did $*"
if [ "$2" = venv ]; then mkdir -p .venv/bin && cp "$0" .venv/bin/python; fi
"""


def test_every_step_is_announced_before_it_is_taken(tmp_path):
    shutil.copy(TOP / "Makefile", tmp_path)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    python = tmp_path / "a-python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "setup", f"PYTHON={python}"],
        cwd=tmp_path,
        env=kept,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    lines = done.stdout.splitlines()
    steps = [number for number, line in enumerate(lines) if line.startswith("did ")]
    assert len(steps) == 3
    for number, step in enumerate(steps, start=1):
        assert lines[step - 1].startswith(f"{number}/3 ")
        assert lines[step - 1].endswith(("some seconds", "minutes"))
