"""Groups a list of records by a field and aggregates other fields per group.

The function is `async`, so that many calls share one pod. In a long list it lets other calls run
after each slice. It keeps nothing between calls.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

OPERATIONS = ("sum", "avg", "min", "max", "count")
# Records between two yields to the event loop: about a millisecond's work.
SLICE = 1000


class Aggregate:
    """One field of one group. `count` is the number of records in which the field was not null."""

    __slots__ = ("count", "high", "low", "values")

    def __init__(self) -> None:
        self.count = 0
        self.values: list[float] = []
        self.low: float | None = None
        self.high: float | None = None

    def add(self, value: float) -> None:
        self.count += 1
        self.values.append(value)
        self.low = value if self.low is None or value < self.low else self.low
        self.high = value if self.high is None or value > self.high else self.high

    def result(self, operation: str) -> float | None:
        """Returns the aggregated value; without values None, or 0 for a count."""
        if operation == "count":
            return self.count
        if not self.count:
            return None
        if operation in ("min", "max"):
            return self.low if operation == "min" else self.high
        whole = all(type(value) is int for value in self.values)
        total = sum(self.values) if whole else math.fsum(self.values)
        return total if operation == "sum" else total / self.count


async def handle(input: Any) -> dict[str, Any]:
    """Returns one row per group, in the order in which the groups first appear, for an input
    `{"records", "groupBy", "aggregate": {field: operation}}`. Raises ValueError for other input."""
    records, group_by, aggregate = _read(input)
    groups: dict[tuple[str, Any], tuple[Any, list[int], dict[str, Aggregate]]] = {}
    for at, record in enumerate(records):
        if at % SLICE == SLICE - 1:
            await asyncio.sleep(0)
        if not isinstance(record, dict):
            raise ValueError(f"records[{at}] must be an object")
        key = record.get(group_by)
        if isinstance(key, (dict, list)):
            raise ValueError(f"records[{at}].{group_by} must be a text, number, boolean or null")
        _, size, fields = groups.setdefault(
            (type(key).__name__, key), (key, [0], {name: Aggregate() for name in aggregate}))
        size[0] += 1
        for name, operation in aggregate.items():
            _add(fields[name], record.get(name), operation, f"records[{at}].{name}")
    rows = [
        {"key": key, "count": size[0],
         "values": {name: fields[name].result(operation)
                    for name, operation in aggregate.items()}}
        for key, size, fields in groups.values()
    ]
    return {"groups": rows, "groupCount": len(rows), "recordCount": len(records)}


def _add(field: Aggregate, value: Any, operation: str, place: str) -> None:
    if value is None:
        return
    if operation == "count":
        field.count += 1
        return
    if type(value) not in (int, float):
        raise ValueError(f"{place} must be a number for {operation!r}")
    field.add(value)


def _read(input: Any) -> tuple[list[Any], str, dict[str, str]]:
    if not isinstance(input, dict) or not isinstance(input.get("records"), list):
        raise ValueError('the input must be {"records": [objects], "groupBy": a field, '
                         '"aggregate": {field: operation}}')
    group_by = input.get("groupBy")
    if not isinstance(group_by, str) or not group_by:
        raise ValueError("groupBy must be the name of a field")
    aggregate = input.get("aggregate")
    if aggregate is None:
        aggregate = {}
    if not isinstance(aggregate, dict):
        raise ValueError("aggregate must be {field: operation}")
    for name, operation in aggregate.items():
        if operation not in OPERATIONS:
            raise ValueError(f"aggregate.{name} must be one of {', '.join(OPERATIONS)}")
    return input["records"], group_by, aggregate
