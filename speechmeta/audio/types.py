"""The array type that rooms pass waveforms in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
"""Samples as float32, full scale at 1.0."""
