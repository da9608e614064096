"""stub"""

from dataclasses import dataclass

import numpy as np


@dataclass
class Fault:
    kind: str
    rows: np.ndarray
    cause: str
    evidence: float
