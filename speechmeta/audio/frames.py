"""FFmpeg's decoded frames as arrays."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame

from speechmeta.audio.types import FloatArray

_FULL_SCALE = {"u8": 128.0, "s16": 32768.0, "s32": 2147483648.0, "s64": 2.0**63}


def samples_of(frame: AudioFrame) -> FloatArray:
    """One frame as float32 (channels, n), full scale at 1.0."""
    kind = frame.format.name.rstrip("p")
    if kind == "s64":  # the one format that PyAV does not turn into an array
        count = frame.samples * (1 if frame.format.is_planar else frame.layout.nb_channels)
        data: npt.NDArray[Any] = np.stack(
            [np.frombuffer(cast(Any, plane), np.int64)[:count] for plane in frame.planes]
        )
    else:
        data = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(-1, frame.layout.nb_channels).T
    if kind not in _FULL_SCALE:
        with np.errstate(over="ignore"):  # infinite samples are found by who reads on
            return np.ascontiguousarray(data, dtype=np.float32)
    scale = _FULL_SCALE[kind]
    # 32-bit integers pass through float64, float32 would round before scaling does.
    wide: npt.NDArray[np.floating[Any]] = data.astype(np.float64 if kind == "s32" else np.float32)
    if kind == "u8":
        wide -= scale
    return np.ascontiguousarray(wide / scale, dtype=np.float32)
