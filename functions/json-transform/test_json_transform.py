"""Tests of the function alone: grouping, each operation, and refused inputs."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import pytest

path = Path(__file__).with_name("handler.py")
spec = importlib.util.spec_from_file_location("json_transform", path)
json_transform = importlib.util.module_from_spec(spec)
spec.loader.exec_module(json_transform)

RECORDS = [
    {"city": "Rome", "sales": 10, "price": 1.5},
    {"city": "Oslo", "sales": 4, "price": None},
    {"city": "Rome", "sales": 20},
    {"city": None, "sales": 1, "price": 2},
]


def run(records: Any = None, group_by: Any = "city", aggregate: Any = None) -> dict[str, Any]:
    return asyncio.run(json_transform.handle(
        {"records": RECORDS if records is None else records, "groupBy": group_by,
         "aggregate": aggregate}))


def test_groups_in_the_order_of_appearance() -> None:
    assert run() == {
        "groups": [{"key": "Rome", "count": 2, "values": {}},
                   {"key": "Oslo", "count": 1, "values": {}},
                   {"key": None, "count": 1, "values": {}}],
        "groupCount": 3, "recordCount": 4,
    }


@pytest.mark.parametrize(("operation", "rome", "oslo"), [
    ("sum", 30, 4), ("avg", 15.0, 4.0), ("min", 10, 4), ("max", 20, 4), ("count", 2, 1),
])
def test_operations(operation: str, rome: float, oslo: float) -> None:
    rows = run(aggregate={"sales": operation})["groups"]
    assert [row["values"]["sales"] for row in rows[:2]] == [rome, oslo]


def test_missing_values_do_not_count() -> None:
    rome, oslo, _ = run(aggregate={"price": "avg"})["groups"]
    assert (rome["values"]["price"], oslo["values"]["price"]) == (1.5, None)
    rome, oslo, _ = run(aggregate={"price": "count"})["groups"]
    assert (rome["values"]["price"], oslo["values"]["price"]) == (1, 0)


def test_several_fields_and_exact_sums() -> None:
    rows = run([{"k": 1, "a": 0.1, "b": 3}] * 10, "k", {"a": "sum", "b": "max"})["groups"]
    assert rows == [{"key": 1, "count": 10, "values": {"a": 1.0, "b": 3}}]


def test_one_and_true_are_different_groups() -> None:
    rows = run([{"k": 1}, {"k": True}, {"k": "1"}], "k")["groups"]
    assert [row["key"] for row in rows] == [1, True, "1"]


def test_an_empty_list() -> None:
    assert run([]) == {"groups": [], "groupCount": 0, "recordCount": 0}


def test_a_long_list_lets_others_run() -> None:
    turns = 0

    async def both() -> None:
        nonlocal turns
        work = asyncio.create_task(json_transform.handle(
            {"records": [{"k": 1}] * 10_000, "groupBy": "k"}))
        while not work.done():
            turns += 1
            await asyncio.sleep(0)
        assert work.result()["recordCount"] == 10_000

    asyncio.run(both())
    assert turns >= 10


@pytest.mark.parametrize(("input", "message"), [
    (None, "the input must be"), ([], "the input must be"), ({}, "the input must be"),
    ({"records": {}, "groupBy": "a"}, "the input must be"),
    ({"records": []}, "groupBy must be"), ({"records": [], "groupBy": 1}, "groupBy must be"),
    ({"records": [1], "groupBy": "a"}, r"records\[0\] must be an object"),
    ({"records": [{"a": []}], "groupBy": "a"}, r"records\[0\].a must be"),
    ({"records": [], "groupBy": "a", "aggregate": []}, "aggregate must be"),
    ({"records": [], "groupBy": "a", "aggregate": {"b": "median"}}, "aggregate.b must be one of"),
    ({"records": [], "groupBy": "a", "aggregate": {"b": ["sum"]}}, "aggregate.b must be one of"),
    ({"records": [{"b": "x"}], "groupBy": "a", "aggregate": {"b": "sum"}},
     r"records\[0\].b must be a number"),
    ({"records": [{"b": True}], "groupBy": "a", "aggregate": {"b": "max"}},
     r"records\[0\].b must be a number"),
])
def test_bad_input_says_what_is_wanted(input: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asyncio.run(json_transform.handle(input))
