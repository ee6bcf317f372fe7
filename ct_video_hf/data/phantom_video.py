"""Generated videos with a question that only their motion answers.

Soft discs of different sizes and brightness drift over a textured ground. In a positive video they
approach the camera and grow; a negative one is such a video played backwards, so that each single
frame of one class could be of the other. It is a stand-in for natural video where a small network
shall be pretrained on something that is not CT: it holds no chest, no scan and no nodule.

Frames are stored as if they were slices, grey values as HU from -1000 (black) to 400 (white), so
that they travel the same road as scans. The scene is seen through a grey frame, whose HU are those
of soft tissue: the reader refuses scans without any.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from ..errors import CTVideoError

__all__ = ["VideoParameters", "VideoStudy"]

_BLACK, _WHITE = -1000.0, 400.0
_FRAME = 0.75  # grey


@dataclass(eq=False)
class VideoStudy:
    """One generated video: ``hu`` is int16 (frame, row, column); ``nodules`` is always empty."""

    hu: np.ndarray
    label: int
    nodules: list[dict] = field(default_factory=list)


@dataclass(frozen=True)
class VideoParameters:
    """What the generated videos look like; lengths in pixels, speeds in pixels a frame."""

    matrix: int = 96  # rows and columns
    frames: int = 32
    discs: tuple[int, int] = (3, 6)
    radius: tuple[float, float] = (2.5, 5.0)  # when farthest away
    growth: tuple[float, float] = (1.6, 2.8)  # radius when nearest, in times that
    speed: tuple[float, float] = (0.0, 0.5)
    grey: tuple[float, float] = (0.35, 1.0)  # of the discs, 0 black to 1 white
    ground: float = 0.25  # of the ground, mean
    texture: float = 0.08  # of the ground, standard deviation
    noise: float = 0.02  # of each frame
    pixel_mm: float = 1.0
    slice_mm: float = 1.0

    def __post_init__(self) -> None:
        if self.matrix < 48 or self.frames < 8:
            raise CTVideoError(
                f"videos of {self.frames} frames and {self.matrix} pixels: at least 8 frames of 48 "
                "are needed"
            )

    def generate(self, rng: np.random.Generator, positive: bool) -> VideoStudy:
        """One video; the label decides nothing but the direction in which it is played."""
        video = np.repeat(self._ground(rng)[None], self.frames, axis=0)
        video += np.linspace(0, rng.uniform(-0.05, 0.05), self.frames)[:, None, None]  # light
        grid = np.arange(self.matrix, dtype=np.float32)
        for _ in range(int(rng.integers(self.discs[0], self.discs[1] + 1))):
            self._paint(video, grid, rng)
        edge = self.matrix // 24
        inside = np.zeros((self.matrix, self.matrix), bool)
        inside[edge:-edge, edge:-edge] = True
        video[:, ~inside] = _FRAME
        video += rng.normal(0, self.noise, video.shape)
        if not positive:
            video = video[::-1]
        hu = _BLACK + np.clip(video, 0, 1) * (_WHITE - _BLACK)
        return VideoStudy(np.ascontiguousarray(np.round(hu).astype(np.int16)), int(positive))

    def _ground(self, rng: np.random.Generator) -> np.ndarray:
        rough = rng.normal(0, 1, (self.matrix, self.matrix)).astype(np.float32)
        smooth = cv2.GaussianBlur(rough, (0, 0), float(rng.uniform(1.5, 4.0)))
        return self.ground + self.texture * smooth / max(float(smooth.std()), 1e-6)

    def _paint(self, video: np.ndarray, grid: np.ndarray, rng: np.random.Generator) -> None:
        """A disc that grows while it drifts, with an edge two pixels soft."""
        first = rng.uniform(*self.radius)
        last = first * rng.uniform(*self.growth)
        angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(*self.speed)
        centre = rng.uniform(0.15, 0.85, 2) * self.matrix
        grey = rng.uniform(*self.grey)
        for frame in range(self.frames):
            time = frame / (self.frames - 1)
            way = speed * (frame - self.frames / 2)
            row, column = centre + way * np.array([np.sin(angle), np.cos(angle)])
            distance = np.hypot(grid[:, None] - row, grid[None] - column)
            radius = first + (last - first) * time
            cover = np.clip((radius - distance) / 2 + 0.5, 0, 1)
            video[frame] += cover * (grey - video[frame])
