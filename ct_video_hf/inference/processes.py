"""Studies shared out among the processes of ``accelerate launch``."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["Processes"]

#: The first process to finish waits for the last, which may have many large studies left.
_PATIENCE = datetime.timedelta(days=7)


class Processes:
    """The processes that predict together; one where nothing launched several.

    Attributes
    ----------
    rank, count : int
        This process's number from 0, and how many there are.
    device : str or None
        The GPU of this process; None for one process, or without a GPU for each.
    """

    def __init__(self) -> None:
        self.rank, self.count, self.device = 0, 1, None
        self._state = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
            on_cpu = asked or torch.cuda.device_count() < local
            self._state = PartialState(cpu=on_cpu, timeout=_PATIENCE)
            self.rank, self.count = self._state.process_index, self._state.num_processes
            self.device = str(self._state.device)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what all have found."""
        return self.rank == 0

    def mine(self, studies: Sequence[Any]) -> Sequence[Any]:
        """This process's studies: every ``count``-th, so that a folder's kinds are spread."""
        return studies[self.rank :: self.count]

    def merged(self, found: Sequence[Any]) -> list[Any]:
        """What all processes found for their studies, in the order of the studies; waits for all.

        Parameters
        ----------
        found : sequence
            One object, which can be pickled, for each of :meth:`mine`.
        """
        if self._state is None:
            return list(found)
        from accelerate.utils import gather_object

        places = range(self.rank, self.rank + self.count * len(found), self.count)
        pairs = gather_object(list(zip(places, found, strict=True)))
        return [item for _, item in sorted(pairs, key=_place)]

    def close(self) -> None:
        """End the connection between the processes."""
        if self._state is not None:
            self._state.destroy_process_group()


def _place(pair: tuple[int, Any]) -> int:
    return pair[0]
