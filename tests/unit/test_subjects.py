import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import InvalidSubject, Subject
from broker.contracts.subjects import covers, matches, overlap, resource_name

TOKENS = st.sampled_from(["a", "b", "battle", "42"])
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.tuples(
    st.lists(st.one_of(TOKENS, st.just("*")), min_size=0, max_size=4), st.sampled_from(["a", "*", ">"])
).map(lambda parts: ".".join([*parts[0], parts[1]]))


def naive(pattern: str, subject: str) -> bool:
    escaped = re.escape(pattern).replace(r"\*", "[^.]+").replace(r"\.>", r"\..+").replace(">", ".+")
    return re.fullmatch(escaped, subject) is not None


@given(PATTERNS, SUBJECTS)
def test_matching_agrees_with_a_regular_expression(pattern, subject):
    assert matches(pattern, subject) == naive(pattern, subject)


@given(PATTERNS, PATTERNS, SUBJECTS)
def test_a_subject_both_patterns_match_means_they_overlap(left, right, subject):
    if matches(left, subject) and matches(right, subject):
        assert overlap(left, right)


@given(PATTERNS, PATTERNS, SUBJECTS)
def test_covering_means_matching_all_the_other_matches(outer, inner, subject):
    if covers(outer, inner) and matches(inner, subject):
        assert matches(outer, subject)


@pytest.mark.parametrize(
    "subject",
    [
        "",
        " ",
        "a b",
        "a..b",
        ".a",
        "a.",
        "a.*",
        "a.>",
        ">",
        "a\n",
        "a\x00b",
        "a\u202eb",
        "a\u00a0b",
        "x" * 513,
        "\ud800",
    ],
)
def test_what_cannot_be_published_to_is_refused(subject):
    with pytest.raises(InvalidSubject):
        Subject.validate(subject)


@pytest.mark.parametrize("subject", [None, 42, b"battle"])
def test_what_is_not_text_is_refused(subject):
    with pytest.raises(InvalidSubject):
        Subject.validate(subject)


@pytest.mark.parametrize("subject", ["a", "battle.42.state", "a.b*c", "a.>b", "ünïcode.ok", "$JS.API.INFO"])
def test_what_can_be_published_to_comes_back_unchanged(subject):
    assert Subject.validate(subject) == subject


@pytest.mark.parametrize("pattern", [">.a", "a.>.b", "a..>", ""])
def test_a_misplaced_wildcard_is_refused(pattern):
    with pytest.raises(InvalidSubject):
        Subject.validate_pattern(pattern)


@given(st.text(max_size=80))
def test_a_token_is_one_safe_word_or_refused(text):
    safe = re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) is not None and not text.endswith("\n")
    if safe:
        assert Subject.token(text) == text
    else:
        with pytest.raises(InvalidSubject):
            Subject.token(text)


def test_a_whole_number_is_a_token_and_nothing_else_is():
    assert Subject.token(42) == "42"
    for value in (None, 1.5, b"x"):
        with pytest.raises(InvalidSubject):
            Subject.token(value)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a*", "a>", "a/b", "a\\b", "a\x00", "x" * 256])
def test_a_name_that_would_break_api_subjects_is_refused(name):
    with pytest.raises(InvalidSubject):
        resource_name(name, "stream")


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a*", "a/b", "\ud800", "x" * 256, "é" * 128, None])
def test_what_cannot_name_anything_is_refused(name):
    with pytest.raises(InvalidSubject, match="queue name"):
        resource_name(name, "queue")
