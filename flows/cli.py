"""The command line: `aesc --help`. Commands import what they need when they run, so that help answers at once."""

from __future__ import annotations

import gc
import json
import sys
from typing import Any

import typer

from aesc.errors import AescError
from flows.commands import (
    ablation,
    arrivals,
    card,
    data,
    export,
    inspection,
    monitoring,
    promotion,
    replay,
    stack,
    training,
)

# Objects until the collector looks for garbage. Modules are objects that stay, 6,000 modules a million of them: by
# Python's own 700 a fifth of their import is spent on looking through them.
_COLLECT_AFTER = 50_000

# Click's own, or that of the copy that newer versions of typer bring.
_UsageError: Any = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="aesc",
    help="A defect detector that retrains itself: stain-noise autoencoder, calibrated thresholds, versioned runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("sample")(data.sample)
app.command("import")(data.import_data)
app.command("validate")(data.validate)
app.command("params")(training.params)
app.command("retrain")(training.retrain)
app.command("register")(training.register)
app.command("ablate")(ablation.ablate)
app.command("inspect")(inspection.inspect)
app.command("monitor")(monitoring.monitor)
app.command("card")(card.card)
app.command("export")(export.export)
app.command("replay")(replay.replay)
app.command("ingest")(arrivals.ingest)
app.command("drill")(arrivals.drill)
app.add_typer(arrivals.quarantine_app, name="quarantine")
app.command("promote")(promotion.promote)
app.command("approve")(promotion.approve)
app.command("rollback")(promotion.rollback)
app.command("history")(promotion.history)
app.command("compare")(promotion.compare)
app.command("up")(stack.up)
app.command("status")(stack.status)
app.command("down")(stack.down)
app.command("env")(stack.env)
app.command("deploy")(stack.deploy)


def main() -> None:
    """Entry point of the `aesc` command."""
    gc.set_threshold(_COLLECT_AFTER)
    # Every command ends with `typer.Exit`; what ends otherwise never reached one, and --json is owed its object here.
    try:
        code = app(standalone_mode=False)
    except _UsageError as error:
        error.show()
        if "--json" in sys.argv[1:]:
            fault = AescError("aesc", error.format_message(), todo="aesc --help, or aesc COMMAND --help")
            print(json.dumps({"error": fault.to_dict()}))
        code = error.exit_code
    gc.freeze()  # or the interpreter looks through all objects once more on its way out, for two seconds
    sys.exit(code)


if __name__ == "__main__":
    main()
