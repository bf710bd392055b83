from __future__ import annotations

from tasks.model_card import MOST_DESCRIPTION, description


def test_a_card_that_is_too_long_for_the_column_loses_whole_sections() -> None:
    short = "# bolt\n\n## Data\n\nmany"
    assert description(short) == short
    assert description("| a | b |\n|---|---|\n| c | d |") == "| a&emsp; | b |\n|---|---|\n| c&emsp; | d |"
    long = "# bolt\n\n## Data\n\nmany\n\n## Numbers\n\n" + "x" * MOST_DESCRIPTION
    found = description(long)
    assert len(found) <= MOST_DESCRIPTION
    assert found.startswith("# bolt\n\n## Data\n\nmany")
    assert "## Numbers" not in found
    assert found.endswith("The whole card is the artifact `model_card.md` of the run.")
    assert len(description("y" * 2 * MOST_DESCRIPTION)) == MOST_DESCRIPTION
