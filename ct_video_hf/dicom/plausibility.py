"""Whether values look like Hounsfield units: air near -1000, soft tissue near 0."""

from __future__ import annotations

import numpy as np

from .findings import Collector
from .volume import AIR_HU

__all__ = ["LOWEST_STORED_HU", "check_values", "common_floor"]

#: Nothing in a patient or around one is lighter; a single value below is padding.
IMPOSSIBLE_HU = -1500
#: The lowest HU of 12-bit values under the usual intercept, stored with or without a sign.
LOWEST_STORED_HU = -2048
#: Fat starts at about -120 HU: a scan without anything below this has neither air nor fat.
NO_FAT_HU = -50
SOFT_TISSUE = (-200, 300)


def common_floor(hu: np.ndarray, below: int = IMPOSSIBLE_HU) -> int | None:
    """The lowest value, where it is below a bound and a hundredth of the voxels hold just it."""
    lowest = int(hu.min())
    if lowest >= below or np.count_nonzero(hu == lowest) * 100 < hu.size:
        return None
    return lowest


def check_values(hu: np.ndarray, collector: Collector) -> None:
    """Look at a sample of a volume's values and record what does not look like HU.

    Only what holds for any part of any patient counts: a crop without air is fine, a crop without
    air, lung and fat is not; nor is a scan without soft tissue.
    """
    sample = hu[:: max(1, len(hu) // 32), ::4, ::4]
    floor = common_floor(sample)
    if floor is not None:
        collector.add(
            "undeclared_padding",
            f"{floor} HU fills part of the images, which no tissue has: padding that the header "
            f"does not declare, left as it is",
        )
        sample = sample[sample != floor]
    sample = sample[sample != AIR_HU]
    reason = _implausible(sample)
    if reason:
        collector.add("implausible_hu", f"values do not look like Hounsfield units: {reason}")


def _implausible(sample: np.ndarray) -> str | None:
    if sample.size == 0:
        return "there is nothing but air and padding"
    low, high = int(sample.min()), int(sample.max())
    if low == high:
        return f"every voxel is {low}"
    if high < -300:
        return f"nothing is above {high}, so there is no tissue; was the rescale applied twice?"
    if low > NO_FAT_HU:
        return (
            f"nothing is below {low}, so there is neither air nor fat; stored values that were not "
            f"rescaled, or a picture?"
        )
    tissue = np.count_nonzero((sample >= SOFT_TISSUE[0]) & (sample <= SOFT_TISSUE[1]))
    if tissue * 200 < sample.size:
        share = 100 * tissue / sample.size
        return f"only {share:.2f} % of the voxels are soft tissue ({low} to {high} in all)"
    return None
