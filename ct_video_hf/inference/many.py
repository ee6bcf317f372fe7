"""Many scans: the next one is read while one is computed, and one that fails stops no other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..dicom import CTVolume
from ..errors import CTVideoError
from .failures import failure

__all__ = ["Outcome", "outcomes"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of one scan of many.

    Attributes
    ----------
    scan : object
        The scan as it was given.
    result : dict or None
        As from :meth:`.pipeline.CTVideoPipeline.__call__`; None when it failed.
    error : CTVideoError or None
        Why it failed, in words without places on this machine's disks, see :mod:`.failures`.
    volume : CTVolume or None
        The scan that was scored, where it was asked for.
    """

    scan: Any
    result: dict[str, Any] | None = None
    error: CTVideoError | None = None
    volume: CTVolume | None = None

    def row(self, study: str | None) -> dict[str, Any]:
        """``study``, its name, with the result, or with ``error`` and ``error_type``."""
        if self.error is None:
            return {"study": study, **self.result}
        return {"study": study, "error": str(self.error), "error_type": type(self.error).__name__}


def outcomes(
    scans: Sequence[Any],
    read: Callable[[Any], tuple[CTVolume, float]],
    predict: Callable[[CTVolume, float], dict[str, Any]],
    *,
    keep_volumes: bool,
) -> Iterator[Outcome]:
    """An outcome for each scan, in order; whatever a scan raises is its outcome's error.

    KeyboardInterrupt and SystemExit end the work.

    Parameters
    ----------
    scans : sequence
    read : callable
        Scan -> volume and the seconds that took; called in a second thread, one scan ahead.
    predict : callable
        Volume and those seconds -> result.
    keep_volumes : bool
        Hand the volumes over with the results.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ct-video-read") as reader:
        ahead: Future | None = None
        for position, scan in enumerate(scans):
            current = ahead or reader.submit(read, scan)
            following = scans[position + 1 : position + 2]
            try:
                volume, seconds = current.result()
            except Exception as error:  # whatever is wrong with a scan, the others go on
                logger.debug("a scan could not be read", exc_info=True)
                ahead = reader.submit(read, following[0]) if following else None
                yield Outcome(scan, error=failure(scan, error))
                continue
            ahead = reader.submit(read, following[0]) if following else None
            try:
                result = predict(volume, seconds)
            except Exception as error:  # memory that ran out, a network that cannot take it, ...
                logger.debug("a scan could not be predicted", exc_info=True)
                outcome = Outcome(scan, error=failure(scan, error))
            else:
                outcome = Outcome(scan, result, volume=volume if keep_volumes else None)
            del volume  # before the consumer takes its time, and before the one after next is read
            yield outcome
            del outcome  # or this volume would stay while the next one is computed
