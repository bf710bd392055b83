"""HTML pages from the templates beside this file, every value escaped."""

from __future__ import annotations

from typing import Any


def render_template(template: str, **values: Any) -> str:
    """The page `tasks/templates/<template>` with `values` filled in."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("tasks"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
