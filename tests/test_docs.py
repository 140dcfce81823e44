"""Every Python block of the README, the concepts and the guides runs as printed, alone, warnings as errors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("concepts/*.md")),
    *sorted((ROOT / "docs").glob("guides/*.md")),
]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def blocks() -> list[object]:
    return [
        pytest.param(code, id=f"{page.name}-{index}")
        for page in PAGES
        for index, code in enumerate(BLOCK.findall(page.read_text()))
    ]


def run(code: str, cwd: Path) -> str:
    if re.search(r"^async def test_", code, re.MULTILINE):
        (cwd / "test_page.py").write_text(code)
        (cwd / "pytest.ini").write_text("[pytest]\nasyncio_mode=auto\nasyncio_default_fixture_loop_scope=function\n")
        options = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"]
    else:
        (cwd / "page.py").write_text(code)
        # What a page fails at on purpose is logged; anything else on stderr is a mistake of the page.
        quiet = "import logging, runpy; logging.getLogger('broker').addHandler(logging.NullHandler())"
        options = ["-W", "error", "-c", f"{quiet}; runpy.run_path('page.py', run_name='__main__')"]
    done = subprocess.run([sys.executable, *options], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize("code", blocks())
def test_the_block_runs_as_printed(code: str, tmp_path: Path) -> None:
    run(code, tmp_path)


def test_the_blocks_are_typed_as_strictly_as_the_library(tmp_path: Path) -> None:
    """What somebody copies passes their own ``mypy --strict``."""
    for page in PAGES:
        for index, code in enumerate(BLOCK.findall(page.read_text())):
            (tmp_path / f"{page.stem}_{index}.py").write_text(code)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={ROOT / '.mypy_cache'}"]
    typed = [*mypy, "--ignore-missing-imports", *map(str, sorted(tmp_path.glob("*.py")))]
    done = subprocess.run(typed, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_example_settles_once_and_reports_the_duplicate(tmp_path: Path) -> None:
    (code,) = BLOCK.findall((ROOT / "README.md").read_text())
    printed = run(code, tmp_path)
    assert "duplicate True" in printed
    assert printed.count("settled {'winner': 'ann'} key battle-42") == 1


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_changelog_names_the_version_or_unreleased() -> None:
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()
