from __future__ import annotations

from pathlib import Path

import pytest

from tasks.licence import UNKNOWN, find_licence

MVTEC = """MVTec AD is released under the Creative Commons
Attribution-NonCommercial-ShareAlike 4.0 International License (CC BY-NC-SA 4.0)."""


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("bolt/license.txt", MVTEC, "CC BY-NC-SA 4.0, no commercial use (by bolt/license.txt beside the images)"),
        ("bolt/readme.txt", MVTEC, "CC BY-NC-SA 4.0, no commercial use (by bolt/readme.txt beside the images)"),
        ("README.md", "Data: CC BY-NC-SA 4.0", "CC BY-NC-SA 4.0, no commercial use (by README.md beside the images)"),
        (
            "bolt/LICENSE",
            "Creative Commons Attribution 4.0 International",
            "CC BY 4.0 (by bolt/LICENSE beside the images)",
        ),
        ("bolt/LICENCE.md", "CC BY-SA 3.0", "CC BY-SA 3.0 (by bolt/LICENCE.md beside the images)"),
        ("bolt/LICENSE", "CC0 1.0 Universal", "CC0 1.0 (by bolt/LICENSE beside the images)"),
        (
            "bolt/LICENSE",
            "Apache License\n  Version 2.0, January 2004",
            "Apache License 2.0 (by bolt/LICENSE beside the images)",
        ),
        ("bolt/LICENSE", "MIT License\n\nCopyright 2024", "MIT License (by bolt/LICENSE beside the images)"),
        (
            "bolt/LICENSE",
            "Only for our own line 4.",
            "not one this project knows by name: read bolt/LICENSE beside the images",
        ),
    ],
)
def test_the_licence_is_named_with_the_file_that_says_so(tmp_path: Path, file: str, text: str, expected: str) -> None:
    (tmp_path / "bolt").mkdir()
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert find_licence(tmp_path, "bolt") == expected


def test_what_nobody_said_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "bolt").mkdir()
    (tmp_path / "bolt" / "license.png").write_bytes(b"MIT License")
    assert find_licence(tmp_path, "bolt") == UNKNOWN
    assert find_licence(tmp_path / "gone", "bolt") == UNKNOWN


def test_the_category_s_own_paper_comes_first_and_a_licence_before_a_readme(tmp_path: Path) -> None:
    (tmp_path / "bolt").mkdir()
    (tmp_path / "LICENSE").write_text("MIT License", encoding="utf-8")
    (tmp_path / "bolt" / "readme.txt").write_text("bolts, CC BY 4.0", encoding="utf-8")
    assert find_licence(tmp_path, "bolt").startswith("CC BY 4.0")
    (tmp_path / "bolt" / "licence.txt").write_text("CC BY-NC 4.0", encoding="utf-8")
    assert find_licence(tmp_path, "bolt").startswith("CC BY-NC 4.0, no commercial use")
