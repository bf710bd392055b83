"""Running a Great Expectations suite over a table, without a project folder, a temporary folder or a progress bar."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

_great_expectations = threading.Lock()  # it keeps its current context in a global


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


def run_suite(table: pd.DataFrame, suite: ExpectationSuite, *, name: str, index: str) -> dict[str, Any]:
    """Great Expectations' own result, as it would write it to JSON; its results in the suite's order.

    Args:
        table: one row a file.
        suite: made of `ordered` expectations with `words`.
        name: of what is validated.
        index: the column that unexpected rows are named by.
    """
    import great_expectations as gx
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

    with _great_expectations:
        # The default configuration leaves a folder for Data Docs in the system's temporary folder.
        stores = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
        quiet = {"globally": False, "metric_calculations": False}
        config = DataContextConfig(store_backend_defaults=stores, progress_bars=quiet)
        context = gx.get_context(mode="ephemeral", project_config=config)
        asset = context.data_sources.add_pandas("images").add_dataframe_asset(name)
        definition = gx.ValidationDefinition(
            name=f"validate {name}",
            data=asset.add_batch_definition_whole_dataframe("all images"),
            suite=context.suites.add(suite),
        )
        result = context.validation_definitions.add(definition).run(
            batch_parameters={"dataframe": table},
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [index]},
        )
    outcome: dict[str, Any] = result.to_json_dict()
    for each in outcome["results"]:
        if _raised(each["exception_info"]):  # our mistake, not the data's: it must not pass for a failed expectation
            raise RuntimeError(f"{meta_of(each)['name']} could not be evaluated: {each['exception_info']}")
    outcome["results"].sort(key=lambda each: int(meta_of(each)["order"]))
    return outcome


def _raised(info: Any) -> bool:
    return isinstance(info, Mapping) and (
        bool(info.get("raised_exception")) or any(_raised(value) for value in info.values())
    )
