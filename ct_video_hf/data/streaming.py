"""Clips of a set that is streamed, study after study."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch.utils.data import IterableDataset as TorchIterableDataset

from ..errors import first_line
from ..models.hu_clips import clip_start_indices
from .clips import build_clip_index
from .errors import CTDataError
from .stored_volume import volume_view

if TYPE_CHECKING:
    from datasets import IterableDataset

__all__ = ["CTClipStream"]

_RULE = ("shape", "slice_labels", "labels", "weight")


class CTClipStream(TorchIterableDataset):
    """The clips of a streamed set, the same as :class:`.clips.CTClipDataset` cuts from a folder.

    Parameters
    ----------
    studies : datasets.IterableDataset
        Of ``load_ct_dataset(..., streaming=True)``, shuffled or dealt to processes as ``datasets``
        does it; a ``DataLoader`` gives each worker its own shards.
    transform : callable
        As for :class:`.clips.CTClipDataset`.
    num_frames, stride, min_positive_slices, tail, min_slices, short_lesions, finding
        Of :func:`.clips.build_clip_index`.

    Notes
    -----
    An item is that of ``CTClipDataset`` with ``study_id`` in place of ``study_index``. One study is
    held at a time. Studies without a clip, for too few slices, are passed over.
    """

    def __init__(
        self,
        studies: IterableDataset,
        transform: Callable[..., torch.Tensor],
        num_frames: int = 32,
        stride: int | None = None,
        *,
        min_positive_slices: int = 4,
        tail: str = "pad",
        min_slices: int | None = None,
        short_lesions: bool = False,
        finding: int | None = None,
    ) -> None:
        self.studies = studies.with_format("arrow")
        self.transform = transform
        self.num_frames = num_frames
        self.stride = num_frames if stride is None else stride
        self.tail = tail
        self.min_slices = (num_frames + 1) // 2 if min_slices is None else min_slices
        self.rule = {
            "min_positive_slices": min_positive_slices,
            "short_lesions": short_lesions,
            "finding": finding,
        }
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the augmentation, and the order of shuffled studies, of an epoch."""
        self._epoch[0] = epoch
        self.studies.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        studies = iter(self.studies)
        while True:
            try:
                row = next(studies)
            except StopIteration:
                return
            except (pa.ArrowException, OSError) as error:
                raise CTDataError(
                    f"a shard of the streamed set is damaged or gone: {first_line(error)}. Fetch "
                    "the set again, or push it again"
                ) from error
            yield from self._clips(row)

    def _clips(self, row: pa.Table) -> Iterator[dict[str, Any]]:
        from datasets import Dataset

        shape = row["shape"][0].as_py()
        starts = clip_start_indices(shape[0], self.num_frames, self.stride, self.tail)
        if shape[0] < self.min_slices or not len(starts):
            return
        index = build_clip_index(
            Dataset(row.select(_RULE), fingerprint="one-study"),
            self.num_frames,
            self.stride,
            tail=self.tail,
            min_slices=self.min_slices,
            **self.rule,
        )
        study = row["study_id"][0].as_py()
        volume = volume_view(
            row["volume"].chunk(0), 0, shape, eight_bit=bool(row["window"][0].as_py())
        )
        for number in range(len(index)):
            start, length = int(index.start[number]), int(index.length[number])
            item = {
                "pixel_values": self.transform(
                    volume[start : start + length],
                    index=_number(study, start),
                    epoch=int(self._epoch),
                ),
                "study_id": study,
                "clip_start": start,
            }
            if index.labels.shape[1]:
                item["labels"] = torch.from_numpy(index.labels[number].copy())
            yield item


def _number(study: str, start: int) -> int:
    """What decides a clip's augmentation: its own, whoever reads it and in whatever order."""
    return int.from_bytes(hashlib.sha256(f"{study}\0{start}".encode()).digest()[:6])
