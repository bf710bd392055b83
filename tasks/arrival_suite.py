"""What an arriving image must be like, as a Great Expectations suite over one row an arrival.

Each arrival is judged as far as its first fault: an image of another size is not also too dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from aesc.bands import BANDED, Band
from aesc.images import FORMATS
from tasks.expectations import ordered, words

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

UNREADABLE, OTHER_SIZE, OTHER_FORMAT = "unreadable", "other_size", "other_format"
_AGAIN = "take or export the image again"


def build_arrival_suite(
    *, category: str, size: str, kind: str, bands: Mapping[str, Band], max_megapixels: float
) -> ExpectationSuite:
    """The expectations for arrivals of one category, over a table made by `tabulate_arrivals`.

    Args:
        size, kind: of the accepted images, as "256 x 256" and "8-bit rgb".
        bands: by statistic; a statistic without one is not judged.
        max_megapixels: for the message about unreadable images.
    """
    import great_expectations as gx
    import great_expectations.expectations as gxe

    limit = f"complete images ({FORMATS}) of at most {max_megapixels:g} megapixels (data.max_megapixels)"
    expectations = [
        gxe.ExpectColumnValuesToBeNull(
            column="fault",
            description="Every arrival can be read",
            meta=words(UNREADABLE, "Unreadable", found="{fault}", allowed=limit, todo=_AGAIN),
        ),
        *(
            gxe.ExpectColumnValuesToBeInSet(
                column=column,
                value_set=[usual],
                description=f"All arrivals have the category's {what}, {usual}",
                meta=words(name, f"Another {what}", found=f"{{{column}}}", allowed=usual, todo=_AGAIN),
            )
            for column, name, what, usual in (
                ("size", OTHER_SIZE, "size", size),
                ("kind", OTHER_FORMAT, "pixel format", kind),
            )
        ),
        *(
            gxe.ExpectColumnValuesToBeBetween(
                column=f"judged_{column}",
                min_value=band.low,
                max_value=band.high,
                description=f"The {BANDED[column]} is that of the accepted images",
                meta=words(
                    BANDED[column].replace(" ", "_"),
                    f"Unusual {BANDED[column]}",
                    found=f"{BANDED[column]} {{{column}:.4g}}",
                    allowed=f"{band.low:.4g} to {band.high:.4g}, the band of {band.n} accepted images",
                    todo="see to lamp, lens and exposure; if it is a good image, accept it from quarantine",
                ),
            )
            for column, band in bands.items()
        ),
    ]
    return gx.ExpectationSuite(name=f"arrivals of {category}", expectations=ordered(expectations))


def tabulate_arrivals(rows: pd.DataFrame, *, size: str, kind: str) -> pd.DataFrame:
    """Add to the arrivals' statistics what the suite asks about; missing where an earlier expectation has failed.

    Args:
        rows: one row an arrival with `fault` (None if readable) and the columns of `aesc.image_statistics`.
    """
    table = rows.reset_index(drop=True)
    readable = table["fault"].isna()

    def text(template: str, *columns: str) -> pd.Series[Any]:
        found = [
            template.format(*values) if ok else None
            for ok, *values in zip(readable, *(table[name] for name in columns), strict=True)
        ]
        return pd.Series(found, index=table.index, dtype=object)

    table["size"] = text("{:.0f} x {:.0f}", "width", "height")
    right_size = table["size"] == size
    table["kind"] = text("{:.0f}-bit {}", "bit_depth", "mode").where(right_size, None)
    right = right_size & (table["kind"] == kind)
    for column in BANDED:
        table[f"judged_{column}"] = table[column].astype(float).where(right, math.nan)
    return table


def usual_form(rows: pd.DataFrame) -> tuple[str, str]:
    """The most common size and pixel format of readable arrivals: the yardstick where nothing was accepted before."""
    readable = rows[rows["fault"].isna()]
    forms = pd.Series(
        [
            (f"{row.width:.0f} x {row.height:.0f}", f"{row.bit_depth:.0f}-bit {row.mode}")
            for row in readable.itertuples()
        ],
        dtype=object,
    )
    counts = forms.value_counts()
    return min(counts[counts == counts.max()].index) if len(counts) else ("", "")
