"""``python -m loadtest.upkeep``: it looks at every row, and says when a bar is missed."""

import pytest

from loadtest.upkeep import GROWTH, STILL, Took, main, verdicts


def test_a_small_run_ends_with_a_page(tmp_path, capsys):
    report = tmp_path / "upkeep.md"
    main(["--rows", "1500", "--report", str(report)])
    written = report.read_text(encoding="utf-8")
    assert written in capsys.readouterr().out
    assert "--rows 1500" in written
    assert all(f"| `{verb}` | " in written for verb in ("reconcile", "Inbox.prune", "Outbox.prune"))


@pytest.mark.parametrize(("growth", "still", "met"), [(GROWTH, STILL, 2), (GROWTH + 1, 0, 1), (0, STILL * 2, 1)])
def test_growth_and_a_loop_that_stands_still_are_judged(growth, still, met):
    found = [Took("a", 1.0, growth, 0.0), Took("b", 1.0, 0.0, still)]
    assert sum(each.met for each in verdicts(found)) == met


def test_rows_must_be_there():
    with pytest.raises(SystemExit):
        main(["--rows", "0"])
