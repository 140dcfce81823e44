"""The numbers a server refuses with: each becomes the class the table names, and docs/errors.md is that table.

``python tests/unit/test_errors_page.py`` writes the page anew.
"""

from pathlib import Path

import pytest

import broker
from broker.backends.nats import errors
from broker.contracts.errors import ApiError, BrokerError, StreamError

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
HEAD = """# What a server refuses

Every error a server's JetStream answers with carries its numbers: `error.code` (HTTP-like), `error.err_code` (the
server's own) and `error.advice` (the last column). Those that a program would catch are classes of their own; the rest
is `ApiError`. A number that is not listed is an `ApiError` with both numbers and the server's words, and no advice.
*again* marks those where the same call may succeed a moment later (`ApiError.transient`). The tree of classes, and what
each lets you know, is on the page about [errors](concepts/errors.md).

| err_code | code | class | the server's words | what to do |
|---|---|---|---|---|
"""
NAMED_BY_OTHERS = {
    *(10003, 10012, 10013, 10014, 10037, 10039, 10058, 10059, 10071, 10076, 10105, 10136, 10138, 10139, 10148, 10149),
    *(10002, 10008, 10023, 10026, 10027, 10028, 10047, 10054, 10057, 10060, 10063, 10065, 10070, 10077, 10084, 10093),
    *(10097, 10099, 10100, 10101, 10109, 10110, 10118, 10119, 10121, 10122, 10130, 10131, 10153, 10156, 10158, 10160),
    *(10164, 10165, 10166, 10167, 10168, 10171, 10174, 10176, 10178, 10188, 10189, 10190, 10199, 10201, 10204, 10210),
}
"""What clients in other languages name, and what our own verbs can run into."""


def page() -> str:
    rows = [
        f"| {each.err_code} | {each.code} | `{each.kind.__name__}`{' *again*' if each.transient else ''} | "
        f"{each.description} | {each.advice} |"
        for each in errors.REFUSALS.values()
    ]
    return HEAD + "\n".join(rows) + "\n"


def test_the_page_is_the_table():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python tests/unit/test_errors_page.py"


def test_at_least_what_others_name_is_known():
    assert len(NAMED_BY_OTHERS) >= 60
    assert set(errors.REFUSALS) >= NAMED_BY_OTHERS


def test_no_number_is_in_two_tables():
    assert len(errors.REFUSALS) == len(errors.STREAMS) + len(errors.CONSUMERS) + len(errors.PUBLISHING)


@pytest.mark.parametrize("refusal", errors.REFUSALS.values(), ids=lambda refusal: str(refusal.err_code))
def test_a_known_number_becomes_its_class_and_says_what_to_do(refusal):
    answer = {"code": refusal.code, "err_code": refusal.err_code, "description": refusal.description}
    error = errors.from_api(answer, subject="s", stream="S", size=2, limit=1)
    assert type(error) is refusal.kind
    assert isinstance(error, StreamError | broker.PayloadTooLarge)
    assert (error.code, error.err_code, error.advice) == (refusal.code, refusal.err_code, refusal.advice)
    assert getattr(broker, refusal.kind.__name__) is refusal.kind
    assert 400 <= refusal.code < 600
    assert refusal.advice.endswith(".")
    assert refusal.description
    assert not refusal.transient or getattr(error, "transient", False)


def test_an_unknown_number_stays_an_api_error_with_both_numbers():
    error = errors.from_api({"code": 499, "err_code": 19999, "description": "something new"}, subject="s")
    assert type(error) is ApiError
    assert (error.code, error.err_code, error.description, error.advice) == (499, 19999, "something new", "")
    assert "something new" in str(error)
    assert not error.transient


def test_an_answer_without_a_number_is_told_as_it_is():
    error = errors.from_api({"code": 500})
    assert isinstance(error, BrokerError)
    assert (error.code, error.err_code) == (500, 0)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
