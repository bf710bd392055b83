"""What a category's images must be like before anything is trained on them, as a Great Expectations suite.

Great Expectations never sees pixels: it judges the table of `tasks.validation_table`, one row a file. Expectations of
severity "critical" stop a run; those of severity "info" become notes. Each carries in `meta` the words that a person
reads: `reason` (a heading), `found` (a template over a row of the table), `allowed` and `todo`.

Which rows an expectation is about is settled in the table: a column is missing where it does not apply, and missing
values are left out. Great Expectations' row conditions would say the same, and take a second or two longer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aesc.images import FORMATS
from aesc.layout import CLEAN_FOLDER, MASK_FOLDER, TRAIN_FOLDER
from aesc.params import Params
from aesc.shortage import images_to_add
from tasks.expectations import ordered, words
from tasks.validation_table import CLEAN_SPLITS, CleanProfile

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite

_TYPE_MASKS = f"{MASK_FOLDER}/<type>"


def build_suite(params: Params, *, profile: CleanProfile, category: str) -> ExpectationSuite:
    """The expectations for one category, over a table made by `tabulate`.

    Args:
        params: limits from `validation`, shares of the splits from `data`.
        profile: of the same table.
        category: names the suite and the folders that messages point to.
    """
    import great_expectations as gx

    expectations = [
        *_file_expectations(params, category),
        *_content_expectations(category),
        *_count_expectations(params, profile, category),
        *_form_expectations(profile),
        *_picture_expectations(params),
        *_mask_expectations(params, category),
    ]
    return gx.ExpectationSuite(name=f"images of {category}", expectations=ordered(expectations))


def _complete(params: Params, what: str) -> str:
    return f"complete {what} ({FORMATS}) of at most {params.data.max_megapixels:g} megapixels (data.max_megapixels)"


def _file_expectations(params: Params, category: str) -> list[Any]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnValuesToBeNull(
            column="misplaced",
            description="Every file lies where images or masks belong",
            meta=words(
                "placed",
                "Files in the wrong place",
                found="{misplaced}",
                allowed=f"images in {CLEAN_FOLDER} and test/<type>, masks in {_TYPE_MASKS}",
                todo=f"move them into the right folder of {category}, or out of {category}",
            ),
        ),
        gxe.ExpectColumnValuesToBeNull(
            column="unreadable",
            description="Every image can be read",
            meta=words(
                "readable",
                "Unreadable images",
                found="{unreadable}",
                allowed=_complete(params, "images"),
                todo="copy or export these files again, or remove them",
            ),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="train_folder",
            value_set=[CLEAN_FOLDER],
            description="Only good images are in train",
            meta=words(
                "only_good_in_train",
                "Images in train that are not good",
                found="in {folder}",
                allowed=f"only {CLEAN_FOLDER} below {category}/{TRAIN_FOLDER}",
                todo=f"move them to {category}/test/<type>, or to {category}/{CLEAN_FOLDER} if they are good",
            ),
        ),
    ]


def _content_expectations(category: str) -> list[Any]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnValuesToBeUnique(
            column="content",
            description="No two images of a split have the same content",
            meta=words(
                "unique_content",
                "The same content more than once",
                found="the same content as {twin}",
                allowed="each content once",
                todo="keep one file of each content and remove the others",
            ),
        ),
        gxe.ExpectColumnValuesToBeNull(
            column="also_in",
            description="No content is in two splits",
            meta=words(
                "separate_splits",
                "A leak: the same content in two splits",
                found="in {split}; the same content in {also_in}",
                allowed="content in one split only; what was learnt from cannot also be tested on",
                todo=f"remove one of the two files: from {category}/{TRAIN_FOLDER}, or from {category}/test",
            ),
        ),
    ]


def _count_expectations(params: Params, profile: CleanProfile, category: str) -> list[Any]:
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    minimum = {split: int(getattr(params.validation, f"min_{split}")) for split in CLEAN_SPLITS}
    shares = {split: float(getattr(params.data, split)) for split in CLEAN_SPLITS}
    total, more = sum(profile.counts.values()), images_to_add(profile.counts, minimum=minimum, shares=shares)
    there = ", ".join(f"{profile.counts[split]} in {split}" for split in CLEAN_SPLITS)
    parts = ", ".join(f"{shares[split]:.0%} to {split}" for split in CLEAN_SPLITS)
    return [
        gxe.ExpectTableRowCountToBeBetween(
            min_value=minimum[split],
            row_condition=Column("clean_split") == split,
            description=f"At least {minimum[split]} clean images in {split}",
            meta=words(
                f"enough_{split}",
                f"Too few clean images in {split}",
                found=f"{profile.counts[split]} in {split}; usable clean images in all: {total} ({there})",
                allowed=f"at least {minimum[split]} in {split} (validation.min_{split})",
                todo=f"add about {more} clean images to {category}/{CLEAN_FOLDER}, {total + more} in all "
                f"(by their content {parts}, on average)",
            ),
        )
        for split in CLEAN_SPLITS
    ]


def _form_expectations(profile: CleanProfile) -> list[Any]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnValuesToBeInSet(
            column=column,
            value_set=[usual],
            description=f"All images have the same {what}" + (f", {usual}" if usual else ""),
            meta=words(
                f"same_{column}",
                f"Images of another {what}",
                found=f"{{{column}}}",
                allowed=f"{usual}, as most clean images",
                todo="export them like the others, or remove them",
            ),
        )
        for column, what, usual in (("size", "size", profile.size), ("kind", "pixel format", profile.kind))
    ]


def _picture_expectations(params: Params) -> list[Any]:
    """Blank, saturated, blurred: demanded of clean images, noted of test images, where it may be the defect."""
    import great_expectations.expectations as gxe

    limits = params.validation
    cases = (
        (
            "std",
            {"min_value": limits.min_std},
            ("not_blank", "Blank"),
            "standard deviation {std:.4f}, mean {mean:.2f} (of 0 to 1)",
            f"a standard deviation of at least {limits.min_std:g} (validation.min_std)",
        ),
        (
            "saturated",
            {"max_value": limits.max_saturated},
            ("not_saturated", "Under- or overexposed"),
            "{saturated:.1%} of the pixels are black or white",
            f"at most {limits.max_saturated:.0%} of the pixels (validation.max_saturated)",
        ),
        (
            "sharpness_share",
            {"min_value": limits.min_sharpness},
            ("sharp", "Blurred"),
            "sharpness {sharpness_share:.1%} of the clean images' median",
            f"at least {limits.min_sharpness:.0%} of the clean images' median (validation.min_sharpness)",
        ),
    )
    return [
        gxe.ExpectColumnValuesToBeBetween(
            column=f"{which}_{column}",
            severity=severity,
            description=f"No {which} image is {fault.lower()}",
            meta=words(
                prefix + name,
                f"{fault} {which} images",
                found=found,
                allowed=allowed,
                todo="take these images again, or remove them",
            ),
            **limit,
        )
        for which, prefix, severity in (("clean", "", "critical"), ("test", "test_", "info"))
        for column, limit, (name, fault), found, allowed in cases
    ]


def _mask_expectations(params: Params, category: str) -> list[Any]:
    import great_expectations.expectations as gxe

    return [
        gxe.ExpectColumnValuesToBeNull(
            column="stray_mask",
            description="Every mask belongs to one image",
            meta=words(
                "mask_has_image",
                "Masks without an image of their own",
                found="{stray_mask}",
                allowed=f"{_TYPE_MASKS}/<name>_mask.png for test/<type>/<name>.png",
                todo="rename or remove the mask, or add its image",
            ),
        ),
        gxe.ExpectColumnValuesToBeNull(
            column="mask_fault",
            description="Every mask can be read",
            meta=words(
                "mask_readable",
                "Unreadable masks",
                found="mask {mask_path}: {mask_fault}",
                allowed=_complete(params, "masks"),
                todo="export these masks again, or remove them and do without pixel metrics",
            ),
        ),
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="mask_size",
            column_B="size",
            ignore_row_if="either_value_is_missing",
            description="Every mask is as large as its image",
            meta=words(
                "mask_fits",
                "Masks of another size than their image",
                found="mask {mask_path} is {mask_size}, the image {size}",
                allowed="the same width and height",
                todo="export these masks at the size of their images",
            ),
        ),
        gxe.ExpectColumnValuesToBeNull(
            column="good_mask",
            description="No good image has a mask",
            meta=words(
                "no_mask_for_good",
                "Masks for good images",
                found="a good image with the mask {mask_path}",
                allowed="masks for images of defects only",
                todo="remove the mask, or move image and mask to the folders of their defect type",
            ),
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="defect_area",
            min_value=0,
            strict_min=True,
            description="Every mask of a defect marks something",
            meta=words(
                "mask_marks_defect",
                "Empty masks of defects",
                found="mask {mask_path} marks nothing",
                allowed="at least one pixel above half of full scale",
                todo="draw these masks again, or remove them, or move good images to test/good",
            ),
        ),
        gxe.ExpectColumnValuesToBeNull(
            column="lacks_mask",
            severity="info",
            description="Every test image of a defect has a mask",
            meta=words(
                "masks_complete",
                "Images of defects without a mask",
                found="no mask",
                allowed="a mask for each image of a defect, for pixel metrics",
                todo=f"add the masks to {category}/{_TYPE_MASKS}",
            ),
        ),
    ]
