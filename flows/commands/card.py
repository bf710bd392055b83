"""`aesc card`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.shell import Json, Report, command


@command
def card(
    model: Annotated[str, typer.Argument(help="Alias or version number, or a run's folder.")] = "champion",
    category: Annotated[
        str | None, typer.Option("--category", "-c", help="Whose detector [default: the only registered one]")
    ] = None,
    as_json: Json = False,
) -> Report:
    """Show a version's model card: data, numbers, promise, weak spots, licence, use, how to make it again.

    Examples:

    `aesc card champion --category bottle`
    """
    from tasks.settings import Settings, prepare_environment

    settings = Settings()
    prepare_environment(settings)

    from tasks.model_card import read_card

    value = read_card(model, category=category, settings=settings)
    return Report(value, value["card"].rstrip())
