"""Names of estimators, known without torch."""

from typing import Literal

EstimatorName = Literal["mc", "scope", "reach", "direct"]
