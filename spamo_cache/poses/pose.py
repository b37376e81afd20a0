"""One person's points over time."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from spamo_cache.errors import PoseError

_TIE = 1e-3
"""Frames; of two that are equally near in time but for rounding, the earlier one is taken."""


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """Points of one person, frame by frame."""

    fps: float
    """Frames per second; row k stands for the time (begin + k) / fps."""
    width: int
    height: int
    points: NDArray[np.float32]
    """(frames, points, 2): x and y in pixels of a frame of width x height; 0 where not seen."""
    confidence: NDArray[np.float32]
    """(frames, points), 0..1; 0 where a point was not seen."""
    names: tuple[str, ...]
    """Of the points: ``COMPONENT/POINT``."""
    begin: int = 0
    """Which frame of its file the first row is, where only a part was read."""

    @property
    def frames(self) -> int:
        """How many there are."""
        return len(self.points)

    @property
    def seconds(self) -> float:
        """When it ends, from the beginning of its file."""
        return (self.begin + self.frames) / self.fps

    def at(self, times_s: NDArray[np.float64]) -> Pose:
        """The pose at other times: for each the frame that is nearest, never by counting.

        Args:
            times_s: (rows,) seconds from the beginning of the pose.

        Returns:
            A pose of a row per time. Where no frame lies within half a frame's time, before the
            beginning and behind the end, nothing is seen: confidence 0.
        """
        place = np.asarray(times_s, np.float64) * self.fps - self.begin
        nearest = np.ceil(place - 0.5 - _TIE)
        outside = (nearest < 0) | (nearest >= self.frames)
        rows = np.where(outside, 0, nearest).astype(np.int64)
        points, confidence = self.points[rows], self.confidence[rows]
        points[outside], confidence[outside] = 0, 0
        return replace(self, points=points, confidence=confidence, begin=0)

    def select(
        self, wanted: str | Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Points (frames, n, 2) and confidence (frames, n) of a component or of named points.

        Args:
            wanted: a component, ``LEFT_HAND_LANDMARKS``, or names as in ``names``, whose order
                is kept.

        Raises:
            PoseError: the pose has no such component or point.
        """
        indices = self._component(wanted) if isinstance(wanted, str) else self._named(wanted)
        return self.points[:, indices], self.confidence[:, indices]

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components, in order."""
        return tuple(dict.fromkeys(name.partition("/")[0] for name in self.names))

    def _component(self, name: str) -> list[int]:
        found = [k for k, point in enumerate(self.names) if point.partition("/")[0] == name]
        if not found:
            raise PoseError(
                f"the pose has no component {name!r}",
                remedy=f"choose among {', '.join(self.components)}",
            )
        return found

    def _named(self, wanted: Sequence[str]) -> list[int]:
        places = {name: k for k, name in enumerate(self.names)}
        for name in wanted:
            if name not in places:
                near = difflib.get_close_matches(name, self.names, n=1)
                raise PoseError(
                    f"the pose has no point {name!r}" + (f"; is it {near[0]!r}?" if near else ""),
                    remedy=f"name points as COMPONENT/POINT, of {', '.join(self.components)}",
                )
        return [places[name] for name in wanted]
