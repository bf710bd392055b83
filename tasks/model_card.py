"""The model card (Mitchell et al., "Model Cards for Model Reporting", 2019): a page for whoever relies on a version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aesc.errors import AescError
from aesc.files import write_atomically
from tasks.detectability import detectability_of
from tasks.licence import find_licence
from tasks.pages import render_markdown
from tasks.registry import model_uri, resolve
from tasks.run_folder import RunFolder
from tasks.settings import Settings

FILE = "model_card.md"
MOST_DESCRIPTION = 5000  # characters: the column of MLflow's database
SPLITS = ("train", "validation", "calibration")


def write_card(run: RunFolder, summary: dict[str, Any], *, shown: dict[str, str]) -> str:
    """Write the card of a registered run into its folder; the text.

    Args:
        run: registered.
        summary: from `tasks.summary.summarise`.
        shown: metrics by name, and what people call them.
    """
    splits = run.manifest()["split"].value_counts()
    types = weakest_first(run, summary)
    found = detectability_of(run)
    text = render_markdown(
        "model_card.md.j2",
        s=summary,
        shown=shown,
        splits={name: int(splits.get(name, 0)) for name in SPLITS},
        licence=find_licence(Path(run.state["data_root"]), summary["category"]),
        types=types,
        weak=types[0] if types else None,
        detectability=found["words"] if found else None,
        side=run.params().data.image_size,
        uri=model_uri(summary["category"], str(summary["model_version"])),
    )
    write_atomically(run.card, lambda path: path.write_text(text, encoding="utf-8"))
    return text


def weakest_first(run: RunFolder, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The defect types by the share found (above the threshold), then by image AUROC, each with its n."""
    import pandas as pd

    scores = pd.read_csv(run.score_table)
    rows = []
    for metrics in summary["metrics_by_defect"]:
        of_type = scores[(scores["label"] == 1) & (scores["defect"] == metrics["defect"])]
        rows.append(
            {
                "defect": metrics["defect"],
                "n": len(of_type),
                "found": int((of_type["score"] > of_type["threshold"]).sum()),
                "abstained": int((of_type["verdict"] == "abstain").sum()),
                "auroc": metrics["image_auroc"],
                "low": metrics["image_auroc_low"],
                "high": metrics["image_auroc_high"],
            }
        )
    return sorted(rows, key=lambda row: (row["found"] / row["n"], row["auroc"] or 0.0, row["defect"]))


def description(card: str) -> str:
    """The card as a description in MLflow: whole sections, as many as its column holds."""
    # MLflow's page leaves no room between the columns of a table.
    card = "\n".join(line.replace(" | ", "&emsp; | ") if line.startswith("| ") else line for line in card.split("\n"))
    if len(card) <= MOST_DESCRIPTION:
        return card
    rest = f"\n\nThe whole card is the artifact `{FILE}` of the run."
    sections = card.split("\n## ")
    while len(text := "\n## ".join(sections) + rest) > MOST_DESCRIPTION:
        if len(sections) == 1:
            return card[: MOST_DESCRIPTION - len(rest)] + rest
        sections.pop()
    return text


def read_card(model: str, *, category: str | None, settings: Settings) -> dict[str, Any]:
    """The card of a version, alias or run folder, as it was registered; JSON-ready.

    Raises:
        AescError: no such model, it has no card, or MLflow cannot be reached.
    """
    if Path(model).is_dir():
        run = RunFolder(model)
        if not run.card.is_file():
            raise AescError(run.path, f"no {FILE}", todo=f"register the run first: aesc register {run.path}")
        state = run.state
        return {
            "category": state["category"],
            "model": str(run.path),
            "version": state.get("model_version"),
            "card": run.card.read_text(encoding="utf-8"),
        }
    from tasks.registry import only_category
    from tasks.tracking import read_artifact

    category = category or only_category()
    found = resolve(category, model)
    uri = model_uri(category, found.version)
    text = read_artifact(found.run_id, FILE)
    if text is None:
        raise AescError(
            uri,
            f"its MLflow run has no {FILE}: it was registered before there were cards",
            todo=f"retrain the category: aesc retrain --category {category}",
        )
    return {"category": category, "model": uri, "version": found.version, "card": text}
