"""Generated chest CT studies on which seeing across slices is the only way to be right.

Every study shows a chest with bright round structures in its lungs. In a positive study one or two
of them are **nodules** (balls); all others, and all of them in a negative study, are **vessels**
(long capsules that run near-axially, of the same radii and brightness). An axial slice cuts either
into the same disc. What tells them apart is how far a disc goes on through neighbouring slices, so
a network without kernels across slices has nothing to learn from.

The label must not leak by a side door:

- the structures of a study fill a volume drawn without regard to the label, and a nodule's volume
  is taken from the vessels, so that mean intensity and bright area say nothing;
- radii, brightness, places, noise, anatomy, slice count, spacing, names and headers are drawn
  without regard to the label.

:mod:`ct_video_hf.evaluation.shortcuts` measures what remains. The phantom is a test object: it
says nothing about how a network fares on patients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from ..errors import CTVideoError

__all__ = ["PhantomParameters", "PhantomStudy", "generate_study"]

_AIR, _FAT, _TISSUE, _LUNG, _BONE, _BLOOD = -1000.0, -100.0, 45.0, -860.0, 420.0, 60.0
#: (centre, half axes, HU) of what lies between the lungs: heart, aorta, vertebra, spinal canal.
_MIDLINE = (
    ((8.0, -22.0), (34.0, 40.0), _TISSUE),
    ((16.0, 44.0), (12.0, 12.0), _BLOOD),
    ((0.0, 66.0), (19.0, 16.0), _BONE),
    ((0.0, 84.0), (8.0, 7.0), _TISSUE),
)


@dataclass(frozen=True)
class PhantomParameters:
    """What the generated studies look like; lengths in mm."""

    matrix: int = 96  # rows and columns
    pixel_mm: float = 3.0
    slice_mm: float = 4.0
    slices: tuple[int, int] = (30, 34)  # lowest and highest slice count
    radius_mm: tuple[float, float] = (8.0, 12.0)  # of nodules and vessels alike
    contrast_hu: tuple[float, float] = (-50.0, 120.0)  # HU of nodules and vessels alike
    structure_cm3: tuple[float, float] = (40.0, 110.0)  # nodules and vessels together
    max_nodules: int = 2
    ending_vessels: float = 0.1  # share of vessels that end within the study
    shortest_vessel: float = 7.0  # length in radii of those that end
    max_tilt: float = 0.06  # tangent of a vessel's angle to the body axis
    noise_hu: float = 35.0

    def __post_init__(self) -> None:
        if self.matrix < 48 or self.slices[0] < 16 or self.slices[0] > self.slices[1]:
            raise CTVideoError(
                f"phantom of matrix {self.matrix} and {self.slices} slices: at least 48 pixels and "
                "16 slices are needed, and the slice range must ascend"
            )

    def generate(self, rng: np.random.Generator, positive: bool) -> PhantomStudy:
        """One study of this kind, see :func:`generate_study`."""
        return generate_study(rng, positive, self)


@dataclass(eq=False)
class PhantomStudy:
    """One generated study.

    ``hu`` is int16 (slice, row, column), feet to head. ``nodules`` holds a dict for each nodule:
    centre as voxel index (slice, row, column), radius in mm, and the half-open slice range in
    which it is seen.
    """

    hu: np.ndarray
    nodules: list[dict] = field(default_factory=list)

    @property
    def label(self) -> int:
        """1 when the study holds a nodule."""
        return int(bool(self.nodules))


class _Chest:
    """The background anatomy of one study, and where its lungs are."""

    def __init__(self, rng: np.random.Generator, slices: int, parameters: PhantomParameters):
        self.p = parameters
        n = parameters.matrix
        half = n * parameters.pixel_mm / 2
        axis = (np.arange(n) + 0.5) * parameters.pixel_mm - half
        self.axis = axis  # mm from the middle, of columns (to the left) and rows (to the back)
        scale = half / 144.0 * rng.uniform(0.92, 1.02)
        self.body = np.array([132.0, 96.0]) * scale
        self.lung_centres = [np.array([side * 62.0, -4.0]) * scale for side in (-1.0, 1.0)]
        self.lung_axes = np.array([44.0, 64.0]) * scale
        self.scale = scale
        self.slices = slices
        phase, swing = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.05)
        self.breadth = 1.0 + swing * np.sin(phase + np.arange(slices) * 0.08)  # along the body
        self.rib_phase = rng.uniform(0, 1)

    def _blend(self, hu: np.ndarray, centre: np.ndarray, axes: np.ndarray, value: float) -> None:
        """Paint an ellipse (mm) into a plane, its edge blurred over a voxel."""
        reach = axes + self.p.pixel_mm
        columns, rows = (
            slice(*np.searchsorted(self.axis, (middle - far, middle + far)))
            for middle, far in zip(centre, reach, strict=True)
        )
        x = (self.axis[columns] - centre[0]) / axes[0]
        y = (self.axis[rows, None] - centre[1]) / axes[1]
        inside = 0.5 + (1.0 - np.hypot(x, y)) * (axes.min() / self.p.pixel_mm)
        part = hu[rows, columns]
        part += inside.clip(0.0, 1.0) * (value - part)

    def planes(self) -> np.ndarray:
        """float32 (slice, row, column) HU without structures and noise."""
        s, middle = self.scale, np.zeros(2)
        wall = np.full((self.p.matrix, self.p.matrix), _AIR)
        self._blend(wall, middle, self.body, _FAT)
        self._blend(wall, middle, self.body - 9.0 * s, _TISSUE)
        hu = np.empty((self.slices, *wall.shape), np.float32)
        for index, breadth in enumerate(self.breadth):
            plane = wall.copy()
            for centre in self._ribs(index):
                self._blend(plane, centre, np.array([6.5, 6.5]) * s, _BONE)
            for centre in self.lung_centres:
                self._blend(plane, centre, self.lung_axes * breadth, _LUNG)
            for centre, axes, value in _MIDLINE:
                self._blend(plane, np.array(centre) * s, np.array(axes) * s, value)
            hu[index] = plane
        return hu

    def _ribs(self, index: int) -> Iterator[np.ndarray]:
        """Ribs slant downwards: where a slice cuts them drifts with z. The lungs cover the rest."""
        drift = (index * self.p.slice_mm / 28.0 + self.rib_phase) % 1.0
        for step in range(7):
            angle = np.pi * (0.12 + (step + drift) * 0.105)
            for side in (-1.0, 1.0):
                direction = np.array([side * np.sin(angle), -np.cos(angle)])
                yield direction * (self.body - 15.0 * self.scale)

    def in_lung(self, x: np.ndarray, y: np.ndarray, margin_mm: float) -> np.ndarray:
        """Whether points (mm from the middle) lie in a lung, ``margin_mm`` from its border.

        The mediastinum reaches into the lungs; points inside it do not count.
        """
        axes = self.lung_axes * self.breadth.min() - margin_mm
        inside = np.zeros(np.broadcast(x, y).shape, bool)
        for centre in self.lung_centres:
            inside |= np.hypot((x - centre[0]) / axes[0], (y - centre[1]) / axes[1]) < 1.0
        centre, axes, _ = _MIDLINE[0]
        heart = np.array(axes) * self.scale + margin_mm
        centre = np.array(centre) * self.scale
        return inside & (np.hypot((x - centre[0]) / heart[0], (y - centre[1]) / heart[1]) > 1.0)


@dataclass
class _Capsule:
    """All points within ``radius`` of a segment; a ball when the segment has no length."""

    start: np.ndarray  # (x, y, z) mm; x and y from the middle, z from the first slice
    stop: np.ndarray
    radius: float
    hu: float

    @property
    def is_ball(self) -> bool:
        return bool(np.array_equal(self.start, self.stop))

    def points(self, spacing: float) -> np.ndarray:
        """(n, 3) points along the segment."""
        count = max(2, int(np.linalg.norm(self.stop - self.start) / spacing) + 1)
        return np.linspace(self.start, self.stop, count)


def _place(
    rng, chest: _Chest, depth: float, radius: float, length: float, p, taken
) -> _Capsule | None:
    """A capsule inside a lung, clear of the others; None when the lungs are too full for it."""
    for _ in range(2000):
        corner = chest.body * rng.uniform(-1, 1, 2)
        slope = rng.uniform(-p.max_tilt, p.max_tilt, 2) if length > 0 else np.zeros(2)
        if np.isinf(length):  # passes through the whole study
            low, high = -2 * radius, depth + 2 * radius
        else:
            low = rng.uniform(radius, depth - radius - min(length, depth / 2))
            high = low + length
        start, stop = (np.array([*(corner + slope * (z - depth / 2)), z]) for z in (low, high))
        capsule = _Capsule(start, stop, radius, rng.uniform(*p.contrast_hu))
        line = capsule.points(p.slice_mm)
        if not chest.in_lung(line[:, 0], line[:, 1], radius + 3.0).all():
            continue
        gap = min((_gap(line, other) - radius - other.radius for other in taken), default=99.0)
        if gap > 4.0:
            return capsule
    return None


def _gap(line: np.ndarray, other: _Capsule) -> float:
    """Least distance between points (n, 3) and a capsule's segment, mm."""
    along = other.stop - other.start
    length = float(along @ along)
    t = np.clip((line - other.start) @ along / length, 0, 1) if length else np.zeros(len(line))
    return float(np.linalg.norm(line - (other.start + t[:, None] * along), axis=1).min())


def _visible_volume(capsule: _Capsule, depth: float) -> float:
    """Volume of a capsule between the first and the last slice, mm3, caps left aside."""
    if capsule.is_ball:
        return 4 / 3 * np.pi * capsule.radius**3
    z = np.clip([capsule.start[2], capsule.stop[2]], 0.0, depth)
    rise = abs(capsule.stop[2] - capsule.start[2])
    length = float(np.linalg.norm(capsule.stop - capsule.start)) * abs(z[1] - z[0]) / rise
    return float(np.pi * capsule.radius**2 * length)


def _structures(rng, chest: _Chest, depth: float, positive: bool, p) -> list[_Capsule]:
    """Nodules (when positive), then vessels until the volume drawn for the study is used up."""
    left = rng.uniform(*p.structure_cm3) * 1000.0
    taken: list[_Capsule] = []
    for _ in range(int(rng.integers(1, p.max_nodules + 1)) if positive else 0):
        nodule = _place(rng, chest, depth, rng.uniform(*p.radius_mm), 0.0, p, taken)
        if nodule is not None:
            taken.append(nodule)
            left -= _visible_volume(nodule, depth)
    if positive and not taken:
        raise CTVideoError(f"a nodule of radius {p.radius_mm} mm fits nowhere in the lungs")
    while left > 0:
        radius = rng.uniform(*p.radius_mm)
        ends = rng.uniform() < p.ending_vessels
        length = radius * p.shortest_vessel * rng.uniform(1.0, 1.5) if ends else np.inf
        vessel = _place(rng, chest, depth, radius, length, p, taken)
        if vessel is None:
            break
        volume = _visible_volume(vessel, depth)
        if volume > left and rng.uniform() > left / volume:
            break  # the last one is kept as often as the volume that it would take allows
        taken.append(vessel)
        left -= volume
    return taken


def _paint(hu: np.ndarray, capsule: _Capsule, p: PhantomParameters, chest: _Chest) -> None:
    """Blend a capsule into hu (slice, row, column) with edges blurred over a voxel."""
    margin = capsule.radius + p.pixel_mm
    half = p.matrix * p.pixel_mm / 2
    spacing = np.array([p.pixel_mm, p.pixel_mm, p.slice_mm])
    shift = np.array([half - p.pixel_mm / 2, half - p.pixel_mm / 2, 0.0])
    ends = np.stack([capsule.start, capsule.stop]) + shift
    low = np.floor((ends.min(0) - margin) / spacing).astype(int).clip(0)
    high = np.ceil((ends.max(0) + margin) / spacing).astype(int) + 1
    block = hu[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
    if not block.size:
        return
    grids = [
        (np.arange(low[a], low[a] + block.shape[2 - a]) * spacing[a] - shift[a]) for a in range(3)
    ]
    z, y, x = np.meshgrid(grids[2], grids[1], grids[0], indexing="ij")
    points = np.stack([x, y, z], axis=-1)
    along = capsule.stop - capsule.start
    length = float(along @ along)
    t = np.clip((points - capsule.start) @ along / length, 0, 1) if length else np.zeros(z.shape)
    distance = np.linalg.norm(points - (capsule.start + t[..., None] * along), axis=-1)
    inside = np.clip(0.5 + (capsule.radius - distance) / p.pixel_mm, 0.0, 1.0)
    block += (inside * (capsule.hu - block)).astype(block.dtype)


def _seen_in(capsule: _Capsule, slices: int, p: PhantomParameters) -> tuple[int, int]:
    """Half-open range of slices whose plane cuts the ball."""
    cut = np.flatnonzero(np.abs(np.arange(slices) * p.slice_mm - capsule.start[2]) < capsule.radius)
    return int(cut[0]), int(cut[-1]) + 1


def generate_study(
    rng: np.random.Generator, positive: bool, parameters: PhantomParameters | None = None
) -> PhantomStudy:
    """One generated chest CT.

    Parameters
    ----------
    rng : numpy.random.Generator
        Everything random about the study comes from it.
    positive : bool
        Whether the study holds nodules.
    parameters : PhantomParameters, optional

    Raises
    ------
    CTVideoError
        When the parameters ask for more structures than the lungs can hold.
    """
    p = parameters or PhantomParameters()
    slices = int(rng.integers(p.slices[0], p.slices[1] + 1))
    chest = _Chest(rng, slices, p)
    depth = (slices - 1) * p.slice_mm
    structures = _structures(rng, chest, depth, positive, p)
    hu = chest.planes()
    for capsule in structures:
        _paint(hu, capsule, p, chest)
    hu += _noise(rng, hu.shape, p.noise_hu)
    nodules = []
    middle = (p.matrix - 1) / 2
    for ball in (capsule for capsule in structures if capsule.is_ball):
        x, y, z = ball.start
        start, stop = _seen_in(ball, slices, p)
        nodules.append(
            {
                "centre": [z / p.slice_mm, y / p.pixel_mm + middle, x / p.pixel_mm + middle],
                "radius_mm": ball.radius,
                "slice_start": start,
                "slice_stop": stop,
            }
        )
    return PhantomStudy(np.rint(hu).clip(-1024, 3071).astype(np.int16), nodules)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Slightly correlated noise of standard deviation ``sigma``, as a smooth kernel leaves it."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    for plane in noise:
        cv2.GaussianBlur(plane, (3, 3), 0.7, dst=plane)
    return noise * np.float32(sigma / noise.std())
