"""data.corrections: labels that the user has corrected, and images that are to be left out."""

from collections.abc import Sequence

import pandas as pd

from classifier.data.annotations import LINE, SETTINGS
from classifier.data.dataset import printable, some
from classifier.job.failures import StepError

SETTING = SETTINGS["corrections"]
LEAVE_OUT = ("", "-")


def apply_corrections(
    images: pd.DataFrame, classes: Sequence[str], given: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, list[dict[str, str]]]]:
    """Return the images with their new labels, without those left out, and what the manifest says of both.

    A row with the label that its image has says nothing; any other is about all copies of the image. `given` has the
    file's rows by the images' index. Raises a StepError for a label that is no class, and for rows that disagree.
    """
    codes = {printable(name): code for code, name in enumerate(classes)} | dict.fromkeys(LEAVE_OUT, -1)
    if "label" not in given:
        raise StepError(f"{SETTING}, line 1: the columns must be path or sha256, then label, but label is missing.")
    for row in given[~given["label"].isin(codes.keys())].itertuples():
        line = given.at[row.Index, LINE]
        raise StepError(
            f"{SETTING}, line {line}: the label must be a class of the data set ({some(classes)}), or - to leave the "
            f"image out, but is {row.label!r}."
        )
    wanted = given["label"].map(codes).astype("int32")
    touched = wanted[wanted != images.loc[given.index, "label"]]
    by_content = dict[str, int]()  # sha256 -> index of its first row
    for index, sha256 in images.loc[touched.index, "sha256"].items():
        first = by_content.setdefault(sha256, index)
        if wanted[first] != wanted[index]:
            path = printable(images.at[index, "path"])
            raise StepError(
                f"{SETTING}, line {given.at[index, LINE]}: {path!r} is a copy of the image in line "
                f"{given.at[first, LINE]} and must have the same label, but has {given.at[index, 'label']!r}."
            )
    labels = images["sha256"].map({sha256: wanted[index] for sha256, index in by_content.items()})
    labels = labels.fillna(images["label"]).astype("int32")
    applied, left_out = (labels >= 0) & (labels != images["label"]), labels < 0
    before = images.assign(path=images["path"].map(printable), label=images["label"].map(dict(enumerate(classes))))
    after = labels[applied].map(dict(enumerate(classes)))
    done = {
        "applied": before[applied].assign(to=after).rename(columns={"label": "from"})[["path", "from", "to"]],
        "left_out": before[left_out][["path", "label"]],
    }
    return images.assign(label=labels)[~left_out], {name: rows.to_dict("records") for name, rows in done.items()}
