"""Tests of the function alone: counting, ties, and refused inputs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("word_stats", Path(__file__).with_name("handler.py"))
word_stats = importlib.util.module_from_spec(spec)
spec.loader.exec_module(word_stats)


def test_counts() -> None:
    assert word_stats.handle({"text": "The cat saw the other cat: the END.", "topN": 2}) == {
        "wordCount": 8,
        "uniqueWords": 5,
        "topWords": [{"word": "the", "count": 3}, {"word": "cat", "count": 2}],
        "averageWordLength": 3.25,
    }


def test_ties_are_alphabetical() -> None:
    words = word_stats.handle({"text": "pear Apple fig apple pear kiwi"})["topWords"]
    assert [word["word"] for word in words] == ["apple", "pear", "fig", "kiwi"]


def test_ten_words_unless_asked() -> None:
    text = " ".join(f"w{number}" for number in range(30))
    assert len(word_stats.handle({"text": text})["topWords"]) == 10
    assert len(word_stats.handle({"text": text, "topN": None})["topWords"]) == 10
    assert len(word_stats.handle({"text": text, "topN": 25})["topWords"]) == 25
    assert word_stats.handle({"text": text, "topN": 0})["topWords"] == []


@pytest.mark.parametrize(("text", "words"), [
    ("", []), ("... --- !!!", []), ("don't stop", ["don't", "stop"]), ("a_b", ["a", "b"]),
    ("Straße STRASSE", ["strasse"]), ("日本 語", ["日本", "語"]), ("x2 3", ["3", "x2"]),
])
def test_what_a_word_is(text: str, words: list[str]) -> None:
    found = word_stats.handle({"text": text})["topWords"]
    assert sorted(word["word"] for word in found) == sorted(words)


def test_no_words() -> None:
    assert word_stats.handle({"text": " "}) == {
        "wordCount": 0, "uniqueWords": 0, "topWords": [], "averageWordLength": 0.0}


@pytest.mark.parametrize("input", [
    None, "text", [], {}, {"text": 1}, {"text": None}, {"text": "a", "topN": -1},
    {"text": "a", "topN": 1001}, {"text": "a", "topN": "3"}, {"text": "a", "topN": 1.5},
    {"text": "a", "topN": True},
])
def test_bad_input_says_what_is_wanted(input: object) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        word_stats.handle(input)
