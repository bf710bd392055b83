"""Pages from the templates beside this file: HTML with every value escaped, and markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render_template(template: str, **values: Any) -> str:
    """The HTML page `tasks/templates/<template>` with `values` filled in."""
    return _environment(autoescape=True).get_template(template).render(**values)


def render_markdown(template: str, **values: Any) -> str:
    """The markdown page `tasks/templates/<template>`.

    Filters: `number` and `interval` (of a metric; None is "not available"), `sentence`, `cell` (of a table).
    """
    environment = _environment(autoescape=False)
    environment.filters |= {"number": number, "interval": interval, "sentence": _sentence, "cell": _cell}
    return environment.get_template(template).render(**values)


def number(value: float | None) -> str:
    """A metric for people."""
    return "not available" if value is None else f"{value:.4f}"


def interval(bounds: list[float | None]) -> str:
    """Its interval, empty if there is none."""
    low, high = bounds
    return "" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _environment(*, autoescape: bool) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=PackageLoader("tasks"),
        autoescape=select_autoescape(default=autoescape, default_for_string=autoescape, enabled_extensions=()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not autoescape,
    )
