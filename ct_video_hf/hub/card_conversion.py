"""What the card of a converted checkpoint says, from ``conversion.json`` of its folder."""

from __future__ import annotations

from typing import Any

__all__ = [
    "CONVERSION_FILE",
    "conversion_limits",
    "conversion_rows",
    "conversion_summary",
    "conversion_words",
]

CONVERSION_FILE = "conversion.json"

NOT_STATED = "not stated"


def _is_certain(facts: dict[str, Any]) -> bool:
    """Whether the file is the published one: it came from there, or has its hash."""
    return bool(facts["downloaded"] or facts["is_the_published_file"])


def conversion_summary(facts: dict[str, Any]) -> str:
    """The card's first sentences."""
    purpose = "converted for transformers as a starting point for chest CT."
    words = f"Weights of the video network {facts['backbone']} from a file given by hand, {purpose}"
    words += " What they were trained on is not known for sure: see below."
    if _is_certain(facts):
        origin = facts["published"]["origin"]
        words = f"Published weights of the video network {facts['backbone']}, trained on {origin}, "
        words += f"{purpose} They have seen no CT scan."
    if facts["head"] == "new":
        return words + " The classifier starts at random: finetune the model before any use."
    return words + f" The file's classifier is kept, with its {facts['labels']} classes."


def conversion_words(facts: dict[str, Any]) -> str:
    """How the folder was made."""
    which = "every weight" if facts["head"] == "kept" else "every weight outside the classifier"
    words = f"Not trained here: converted from a checkpoint, {which} loaded by name and shape."
    if facts.get("interpolated"):
        words += f" Learned positions ({len(facts['interpolated'])} tensors, such as "
        words += f"`{facts['interpolated'][0]}`) were interpolated linearly to this clip."
    if facts.get("new_parts"):
        words += " The checkpoint lacks these parts, which start at random: "
        words += ", ".join(f"`{part}`" for part in facts["new_parts"]) + "."
    if facts["channel_inflation"] == "sum":
        words += " The first layer's weights were summed over the published channels and shared out"
        words += " evenly; mean and standard deviation are the average over those channels."
    elif facts["channel_inflation"] == "mean":
        words += " The first layer's weights are the mean over the published channels; mean and "
        words += "standard deviation are their average."
    return words


def conversion_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Where the weights come from: file, hash, origin and licences apart."""
    published = facts.get("published") or {}
    words = {True: "yes, by its hash", False: "no: its hash is another", None: "not known"}
    same = words[facts["is_the_published_file"]]
    if facts["is_the_published_file"] is None:
        same = "downloaded from the published address; no hash is published to compare with"
        if not facts["downloaded"]:
            same = "not known: the file was given by hand, and no hash is published to compare with"
    rows = [
        ("source file", f"`{facts['file']}`, {facts['size_bytes']:,} bytes"),
        ("its sha256", f"`{facts['sha256']}`"),
        ("is it the published file", same),
    ]
    if not published:
        return [*rows, ("trained on", NOT_STATED), ("their licence", NOT_STATED)]
    url = f"<{published['url']}>" if published["url"] else "no address that a program may fetch"
    reported = NOT_STATED
    if published["top1"] is not None:
        reported = f"{published['top1']} % ({published['protocol']}); not measured here"
    known = [
        ("published at", url),
        ("trained on", published["origin"]),
        ("licence of the published code", published["code_license"]),
        ("licence of the published weights", published["weight_license"]),
        ("top-1 accuracy reported", reported),
        ("paper", published["paper"]),
    ]
    if not _is_certain(facts):
        known = [(f"if it is the published file: {words}", text) for words, text in known]
    return rows + known


def conversion_limits(facts: dict[str, Any]) -> list[str]:
    """What a reader must not expect."""
    what = "Its classifier is untrained"
    if facts["head"] == "kept":
        what = "Its classes are those of the checkpoint, not findings on CT"
    return [
        f"{what}: its scores say nothing about a CT scan.",
        "Nothing was measured on CT with these weights here.",
        "The published weights keep their own terms, which the table above states.",
    ]
