"""The heads, one file each; a line of `HEADS` is all that adds one to config, results and report."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ehr_eval.extras import require
from ehr_eval.features.mapped import Matrix
from ehr_eval.heads import lr, rf
from ehr_eval.heads.gbm import LightGBMConfig, boosted_trees
from ehr_eval.heads.grid import Fit, HeadConfig, Labels
from ehr_eval.heads.knn import NeighboursConfig, nearest_neighbours
from ehr_eval.heads.lr import LogisticRegressionConfig, logistic_regressions
from ehr_eval.heads.probe import LinearProbeConfig, linear_probes
from ehr_eval.heads.prototype import PrototypeConfig, prototypes
from ehr_eval.heads.rf import RandomForestConfig, random_forests
from ehr_eval.heads.xgb import XGBoostConfig, xgboost_trees


@dataclass(frozen=True, slots=True)
class Head:
    """A classifier on frozen features."""

    name: str
    """`kind` in its config."""
    config: type[HeadConfig]
    fits: Callable[[Any, Matrix, Labels], Iterator[Fit]]
    """(config, features, labels) -> a fit for each point of the grid, one after the other."""
    needs: str | None = None
    """A module that is an extra of this package."""
    draws: bool = False
    """Whether the order of the rows moves more than rounding; else it is fitted on all rows once."""
    original: Callable[[Any, dict[str, float], Matrix, Labels, int], Fit] | None = None
    """(config, point, features, labels, replicate) -> the refit of EHRSHOT's own code, where that is another fit."""

    def require(self, config: HeadConfig) -> None:
        """Raise where what a config asks for is not installed.

        Raises:
            UserError: With the extra to install.
        """
        if self.needs:
            require(self.needs, f"head {self.name}")
        if config.trials is not None:
            require("optuna", "`trials` of a head")


HEADS: Mapping[str, Head] = MappingProxyType(
    {
        head.name: head
        for head in (
            Head(
                "lr",
                LogisticRegressionConfig,
                logistic_regressions,
                original=lr.refit_of_the_original,
            ),
            Head("gbm", LightGBMConfig, boosted_trees),
            Head(
                "rf",
                RandomForestConfig,
                random_forests,
                draws=True,
                original=rf.refit_of_the_original,
            ),
            Head("xgb", XGBoostConfig, xgboost_trees, needs="xgboost", draws=True),
            Head("prototype", PrototypeConfig, prototypes),
            Head("knn", NeighboursConfig, nearest_neighbours),
            Head("linear_probe", LinearProbeConfig, linear_probes, draws=True),
        )
    }
)
"""Every head by name."""
