"""The rules of tests/conftest.py, checked on a project of their own: CI skips nothing, no task is left behind."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

RULES = (Path(__file__).parents[1] / "conftest.py").read_text()
SKIPPING = """
    import pytest

    @pytest.mark.skip(reason="not today")
    def test_marked(): ...

    def test_inside():
        pytest.skip("no server")

    @pytest.fixture
    def server():
        pytest.skip("no server")

    def test_fixture(server): ...

    @pytest.mark.xfail(strict=True)
    def test_known():
        assert False
"""


@pytest.fixture
def run(pytester, monkeypatch):
    pytester.makeconftest(RULES.replace("GRACE = 2.0", "GRACE = 0.05"))

    def run(source, *, ci=""):
        monkeypatch.setenv("CI", ci)
        pytester.makepyfile(source)
        options = ["asyncio_mode=auto", "asyncio_default_fixture_loop_scope=function"]
        without = ["no:cacheprovider", "no:hypothesispytest"]
        return pytester.runpytest_inprocess(*(f"-o{each}" for each in options), *(f"-p{each}" for each in without))

    return run


def test_on_a_laptop_a_skip_is_a_skip(run):
    run(SKIPPING).assert_outcomes(skipped=3, xfailed=1)


def test_in_ci_a_skip_is_a_failure_and_an_xfail_is_not(run):
    done = run(SKIPPING, ci="true")
    done.assert_outcomes(errors=2, failed=1, xfailed=1)
    done.stdout.fnmatch_lines(["*CI may not skip*"])


def test_in_ci_a_skipped_module_is_an_error(run):
    run("import pytest; pytest.skip('no server', allow_module_level=True)", ci="true").assert_outcomes(errors=1)


def test_a_task_left_behind_is_told(run):
    done = run("""
        import asyncio

        async def test_tidy():
            await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))

        async def test_leaky():
            asyncio.create_task(asyncio.sleep(60), name="forgotten")

        def test_plain(): ...
    """)
    done.assert_outcomes(passed=3, errors=1)
    done.stdout.fnmatch_lines(["*left behind*forgotten*"])
