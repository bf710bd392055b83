"""Great Expectations judging a table, without a project folder, a temporary folder or a progress bar."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations import ExpectationSuite

_great_expectations = threading.Lock()  # it keeps its current context in a global


def run_suite_here(
    table: pd.DataFrame, build: Callable[[], ExpectationSuite], *, name: str, index: str
) -> dict[str, Any]:
    """Great Expectations' own result, as it would write it to JSON.

    Args:
        table: one row a file.
        build: makes the suite.
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
            suite=context.suites.add(build()),
        )
        result = context.validation_definitions.add(definition).run(
            batch_parameters={"dataframe": table},
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [index]},
        )
    outcome: dict[str, Any] = result.to_json_dict()
    return outcome
