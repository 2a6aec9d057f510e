"""Counts the words of a text.

A word is a run of letters and digits, with apostrophes inside ("don't"); upper and lower case are
the same. The function keeps nothing between calls.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
TOP_DEFAULT = 10
TOP_MAX = 1000


def handle(input: Any) -> dict[str, Any]:
    """Counts the words of `{"text", "topN"}`; equally frequent words are in alphabetical order.

    Raises ValueError for other inputs.
    """
    text, top = _read(input)
    words = [word.casefold() for word in WORD.findall(text)]
    counts = Counter(words)
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    letters = sum(map(len, words))
    return {
        "wordCount": len(words),
        "uniqueWords": len(counts),
        "topWords": [{"word": word, "count": count} for word, count in ranked[:top]],
        "averageWordLength": round(letters / len(words), 2) if words else 0.0,
    }


def _read(input: Any) -> tuple[str, int]:
    if not isinstance(input, dict) or not isinstance(input.get("text"), str):
        raise ValueError('the input must be {"text": a string, "topN": a whole number}')
    top = input.get("topN")
    if top is None:
        top = TOP_DEFAULT
    if type(top) is not int or not 0 <= top <= TOP_MAX:
        raise ValueError(f"topN must be a whole number from 0 to {TOP_MAX}")
    return input["text"], top
