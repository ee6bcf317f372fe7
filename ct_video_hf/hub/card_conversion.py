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


def conversion_summary(facts: dict[str, Any]) -> str:
    """The card's first sentences."""
    origin = (facts.get("published") or {}).get("origin")
    trained = f", trained on {origin}," if origin else ""
    words = f"Published weights of the video network {facts['backbone']}{trained} converted for "
    words += "transformers, as a starting point for chest CT. It has seen no CT scan."
    if facts["head"] == "new":
        return words + " Its classifier starts at random: finetune it before any use."
    return words + f" It keeps the published classifier with its {facts['labels']} classes."


def conversion_words(facts: dict[str, Any]) -> str:
    """How the folder was made."""
    words = "Not trained here: converted from a published checkpoint, every weight outside the "
    words += "classifier loaded by name and shape."
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
    return [
        *rows,
        ("published at", url),
        ("trained on", published["origin"]),
        ("licence of the published code", published["code_license"]),
        ("licence of the published weights", published["weight_license"]),
        ("top-1 accuracy reported", reported),
        ("paper", published["paper"]),
    ]


def conversion_limits(facts: dict[str, Any]) -> list[str]:
    """What a reader must not expect."""
    what = "Its classifier is untrained" if facts["head"] == "new" else "Its classes are of videos"
    return [
        f"{what}: its scores say nothing about a CT scan.",
        "Nothing was measured on CT with these weights here.",
        "The published weights keep their own terms, which the table above states.",
    ]
