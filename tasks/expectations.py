"""What the project's Great Expectations suites have in common, and running one over a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tasks.suite_run import run_suite_here
from tasks.suite_worker import run_suite_in_worker

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations import ExpectationSuite


def words(name: str, reason: str, *, found: str, allowed: str, todo: str) -> dict[str, object]:
    """What an expectation carries in `meta` for a person to read; `found` is a template over a row of the table."""
    return {"name": name, "reason": reason, "found": found, "allowed": allowed, "todo": todo}


def ordered(expectations: list[Any]) -> list[Any]:
    """The same, numbered in `meta`: Great Expectations returns results in an order of its own."""
    for order, expectation in enumerate(expectations):
        expectation.meta["order"] = order
    return expectations


def meta_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """The `meta` of the expectation that a result is of."""
    meta: dict[str, Any] = result["expectation_config"]["meta"]
    return meta


def run_suite(table: pd.DataFrame, build: Callable[[], ExpectationSuite], *, name: str, index: str) -> dict[str, Any]:
    """Great Expectations' own result, as it would write it to JSON; its results in the suite's order.

    By the process of `tasks.suite_worker`, if one waits, or else in this one.

    Args:
        table: one row a file.
        build: makes a suite of `ordered` expectations with `words`; can be pickled.
        name: of what is validated.
        index: the column that unexpected rows are named by.
    """
    outcome = run_suite_in_worker(table, build, name=name, index=index)
    if outcome is None:
        outcome = run_suite_here(table, build, name=name, index=index)
    for each in outcome["results"]:
        if _raised(each["exception_info"]):  # our mistake, not the data's: it must not pass for a failed expectation
            raise RuntimeError(f"{meta_of(each)['name']} could not be evaluated: {each['exception_info']}")
    outcome["results"].sort(key=lambda each: int(meta_of(each)["order"]))
    return outcome


def _raised(info: Any) -> bool:
    return isinstance(info, Mapping) and (
        bool(info.get("raised_exception")) or any(_raised(value) for value in info.values())
    )
