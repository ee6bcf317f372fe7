"""What a prepared set looks like: its counts, its geometry, and a contact sheet of its clips."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..files import replacing
from .clips import ClipIndex, CTClipDataset, build_clip_index
from .errors import CTDataError
from .loading import load_prepared, summarize_set
from .manifest import read_manifest
from .stored_volume import HU_OFFSET

__all__ = ["Overview", "SheetClip", "describe_set", "draw_contact_sheet", "save_contact_sheet"]

#: (centre, width) in HU that clips are shown in, where the set keeps HU.
_LUNG = (-600.0, 1500.0)
_CELL = 148  # pixels of a slice on the sheet
_FRAMES = 6
_HEADING = 26  # pixels of a heading on the sheet


@dataclass(frozen=True)
class SheetClip:
    """A clip on the contact sheet: nothing of it names its study."""

    positive: bool
    split: str
    start: int
    length: int
    slices: int
    weak: bool
    shown: tuple[int, ...]
    marked: tuple[bool, ...]
    pictures: tuple[np.ndarray, ...]

    @property
    def caption(self) -> str:
        """Which slices of how many, and in which split."""
        span = f"slices {self.start + 1} to {self.start + self.length} of {self.slices}"
        return f"{self.split}, {span}" + (", label of the study" if self.weak else "")


@dataclass(frozen=True)
class Overview:
    """Everything the page shows.

    Attributes
    ----------
    summary : dict
        Of :func:`.loading.summarize_set`.
    labels : list of dict
        ``label``, ``split``, and how many studies are ``positive``, ``negative``, ``unknown``.
    slices, spacing, pixel : numpy.ndarray
        Of each study: slices, mm between them, and mm of a pixel after fitting.
    clips : list of SheetClip
    window : (float, float)
        Centre and width in HU that clips are shown in.
    rejects : dict
        Code -> studies that could not be read.
    """

    summary: dict[str, Any]
    labels: list[dict[str, Any]]
    slices: np.ndarray
    spacing: np.ndarray
    pixel: np.ndarray
    clips: list[SheetClip]
    window: tuple[float, float]
    rejects: dict[str, int]


def describe_set(folder: str | os.PathLike, *, clips: int = 6, seed: int = 0) -> Overview:
    """Gather what a page or sheet shows of a prepared set.

    Parameters
    ----------
    folder : path
    clips : int
        Positive clips, and as many negative ones, that are shown; each of another study as far as
        there are.
    seed : int
        Chooses them.
    """
    manifest = read_manifest(folder)
    parts = load_prepared(folder)
    records = manifest["studies"]
    spacing = np.array([record["spacing"] for record in records], float)
    window, chosen = _LUNG, []
    random = np.random.default_rng(seed)
    for positive in (True, False):
        candidates = []
        for split, data in parts.items():
            index = build_clip_index(data, finding=manifest.get("finding"), lenient=True)
            flags = index.positive if index.labels.shape[1] else np.zeros(len(index), bool)
            candidates += [
                (split, data, index, int(place)) for place in _spread(index, flags == positive)
            ]
        order = random.permutation(len(candidates))[:clips]
        for place in sorted(order):
            clip, window = _sheet_clip(*candidates[place], positive=positive)
            chosen.append(clip)
    return Overview(
        summary=summarize_set(folder),
        labels=_label_table(manifest),
        slices=np.array([record["shape"][0] for record in records]),
        spacing=spacing[:, 0],
        pixel=spacing[:, 1],
        clips=chosen,
        window=window,
        rejects=_rejects(Path(folder)),
    )


def _spread(index: ClipIndex, wanted: np.ndarray) -> np.ndarray:
    """One clip of each study among those wanted: the middle one."""
    places = np.flatnonzero(wanted)
    studies = index.study[places]
    return np.array(
        [own[len(own) // 2] for own in (places[studies == study] for study in np.unique(studies))],
        int,
    )


def _sheet_clip(
    split: str, data: Any, index: ClipIndex, place: int, *, positive: bool
) -> tuple[SheetClip, tuple[float, float]]:
    row = int(index.study[place])
    start, length = int(index.start[place]), int(index.length[place])
    reader = CTClipDataset(data, index.select(np.array([place])), str)
    planes = reader.clip(0)
    shown = np.unique(np.linspace(0, length - 1, min(_FRAMES, length)).round().astype(int))
    small = data.select_columns(["slice_labels", "shape"])[row]
    slices = small["shape"][0]
    marks = np.array(small["slice_labels"]).reshape(slices, -1) if small["slice_labels"] else None
    marked = [marks is not None and bool((marks[start + n] == 1).any()) for n in shown]
    window = reader.window or _LUNG
    return SheetClip(
        positive=positive,
        split=split,
        start=start,
        length=length,
        slices=slices,
        weak=bool(index.weak[place]),
        shown=tuple(int(start + n) for n in shown),
        marked=tuple(marked),
        pictures=tuple(_picture(planes[n], reader.window) for n in shown),
    ), window


def _picture(plane: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
    """uint8 (_CELL, _CELL) of a stored plane."""
    if window is None:
        centre, width = _LUNG
        hu = plane.astype(np.float32) - HU_OFFSET
        plane = (np.clip((hu - (centre - width / 2)) / width, 0, 1) * 255).astype(np.uint8)
    method = cv2.INTER_AREA if len(plane) > _CELL else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(plane), (_CELL, _CELL), interpolation=method)


def _label_table(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for place, label in enumerate(manifest["label_names"]):
        for split in (name for name, count in manifest["splits"].items() if count):
            values = [
                record["labels"][place]
                for record in manifest["studies"]
                if record["split"] == split and place < len(record["labels"])
            ]
            rows.append(
                {
                    "label": label,
                    "split": split,
                    "positive": sum(value > 0 for value in values),
                    "negative": sum(value == 0 for value in values),
                    "unknown": sum(value < 0 for value in values),
                }
            )
    return rows


def _rejects(folder: Path) -> dict[str, int]:
    import csv
    from collections import Counter

    path = folder / "rejects.csv"
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as stream:
        try:
            return dict(sorted(Counter(row["code"] for row in csv.DictReader(stream)).items()))
        except (KeyError, TypeError, csv.Error, UnicodeDecodeError) as error:
            raise CTDataError(
                f"rejects.csv of {folder.name} is damaged: it is no table with a column 'code'. "
                "Copy it again; without the file the set has no rejects"
            ) from error


def draw_contact_sheet(clips: list[SheetClip]) -> np.ndarray:
    """The clips under each other, feet to head from left to right, as one RGB picture.

    A slice that is marked positive has an amber line under it.

    Returns
    -------
    numpy.ndarray
        uint8 (row, column, 3), RGB.
    """
    gap, line = 6, 4
    width = _FRAMES * (_CELL + gap) + gap
    sheet = np.full((len(clips) * (_CELL + line + gap) + gap, width, 3), 16, np.uint8)
    for number, clip in enumerate(clips):
        top = gap + number * (_CELL + line + gap)
        for place, (picture, marked) in enumerate(zip(clip.pictures, clip.marked, strict=True)):
            left = gap + place * (_CELL + gap)
            sheet[top : top + _CELL, left : left + _CELL] = picture[..., None]
            if marked:
                bar = slice(top + _CELL, top + _CELL + line)
                sheet[bar, left : left + _CELL] = (230, 159, 0)
    return sheet


def save_contact_sheet(overview: Overview, path: str | os.PathLike) -> Path:
    """Write the contact sheet as PNG: positive clips, then negative ones, each under a heading.

    Raises
    ------
    CTDataError
        When the set has no clip.
    """
    if not overview.clips:
        raise CTDataError(
            "there is no clip to show: no study has "
            f"{(overview.summary['clip_rule']['num_frames'] + 1) // 2} slices or more"
        )
    labelled = bool(overview.summary["label_names"])
    parts = []
    for wanted, name in ((True, "positive clips"), (False, "negative clips" if labelled else "")):
        clips = [clip for clip in overview.clips if clip.positive is wanted]
        if clips:
            sheet = draw_contact_sheet(clips)
            parts += [_heading(name or "clips", sheet.shape[1]), sheet]
    with replacing(path) as partial:
        partial.write_bytes(png(np.concatenate(parts)))
    return Path(path)


def _heading(name: str, width: int) -> np.ndarray:
    """uint8 (row, column, 3): a line of text over a part of the sheet."""
    text = f"{name}: a row each, feet to head; amber under slices that are marked positive"
    line = np.full((_HEADING, width, 3), 44, np.uint8)
    cv2.putText(
        line, text, (8, _HEADING - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (225, 225, 225), 1,
        cv2.LINE_AA,
    )  # fmt: skip
    return line


def png(picture: np.ndarray) -> bytes:
    """A picture, grey or RGB, as the bytes of a PNG."""
    colour = picture[..., ::-1] if picture.ndim == 3 else picture
    return cv2.imencode(".png", np.ascontiguousarray(colour))[1].tobytes()
