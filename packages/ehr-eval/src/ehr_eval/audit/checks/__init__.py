"""What makes a result look better than it is: one file a check; a line of `CHECKS` is all that adds one."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ehr_eval.audit.checks.alone import one_token_tells
from ehr_eval.audit.checks.contradictions import labels_that_contradict
from ehr_eval.audit.checks.duplicates import duplicate_subjects
from ehr_eval.audit.checks.early import tokens_before_their_event
from ehr_eval.audit.checks.fitted_on import predicted_rows_fitted_on
from ehr_eval.audit.checks.future import (
    columns_chosen_beyond_train,
    features_are_shifted,
    future_moves_features,
)
from ehr_eval.audit.checks.lineage import other_inputs
from ehr_eval.audit.checks.outcome import outcome_is_visible
from ehr_eval.audit.checks.perfect import predictions_are_the_label
from ehr_eval.audit.checks.prevalence import prevalence_differs
from ehr_eval.audit.checks.shots import shots_of_the_held_out
from ehr_eval.audit.checks.splits import subjects_in_two_splits
from ehr_eval.audit.checks.times import times_without_a_chance
from ehr_eval.audit.checks.vocabulary import counts_beyond_train, vocabulary_beyond_train
from ehr_eval.audit.found import Finding
from ehr_eval.audit.inputs import Inputs


@dataclass(frozen=True, slots=True)
class Check:
    """One way in which a result can be too good."""

    name: str
    asks: str
    """What it looks for."""
    run: Callable[[Inputs], Iterable[Finding]]
    """Raises `Skipped` where it has nothing to look at."""
    do: str
    """What to do about a finding."""


CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        check.name: check
        for check in (
            Check(
                "splits",
                "Is a subject in two splits, or in another one here than there?",
                subjects_in_two_splits,
                "Split by subject, once, in metadata/subject_splits.parquet, and make everything from that data set.",
            ),
            Check(
                "duplicates",
                "Is one subject there under two ids?",
                duplicate_subjects,
                "Give both one id before the data are split, or leave one of them out.",
            ),
            Check(
                "contradictions",
                "Has a subject and time two answers?",
                labels_that_contradict,
                "Make one row a subject and time: decide which event answers.",
            ),
            Check(
                "times",
                "Could somebody have acted at the prediction times?",
                times_without_a_chance,
                "Ask while the subject is alive, within the record and, where the task is of a stay, within it.",
            ),
            Check(
                "outcome",
                "Is the label's own code visible at the prediction time?",
                outcome_is_visible,
                "Ask strictly before the outcome, leave out who had it, or delay its codes (delay).",
            ),
            Check(
                "prevalence",
                "Is the outcome far more frequent in one split than in another?",
                prevalence_differs,
                "Split at random by subject, or say that the splits are of other populations.",
            ),
            Check(
                "alone",
                "Does one code, value or feature tell the outcome alone?",
                one_token_tells,
                "Look at when that code is written: what follows the outcome has to go, or to be delayed (delay).",
            ),
            Check(
                "early",
                "Is a token known before its event?",
                tokens_before_their_event,
                "Give tokens the time at which something becomes known; tokenise again.",
            ),
            Check(
                "vocabulary",
                "Were vocabulary and bins of tokens fitted beyond train?",
                vocabulary_beyond_train,
                "Fit on train alone: tokenise again from the data set whose splits are used.",
            ),
            Check(
                "bins",
                "Were bins and columns of counts fitted beyond train?",
                counts_beyond_train,
                "Fit on train alone: make the counts again from the data set whose splits are used.",
            ),
            Check(
                "columns",
                "Would train rows have chosen other columns of features?",
                columns_chosen_beyond_train,
                "Choose columns on train rows alone; make the features again.",
            ),
            Check(
                "future",
                "Does something after the prediction time move a feature?",
                future_moves_features,
                "Cut each record at its prediction time before anything is computed from it; make the features again.",
            ),
            Check(
                "shifted",
                "Are features those of the next event?",
                features_are_shifted,
                "Read the state at the last event up to the prediction time, not at the one after.",
            ),
            Check(
                "shots",
                "Are shots of subjects that are judged on?",
                shots_of_the_held_out,
                "Draw shots from train and tuning only: ehr-eval ehrshot --shots writes such.",
            ),
            Check(
                "fitted_on",
                "Are predictions of rows that the model was fitted on?",
                predicted_rows_fitted_on,
                "Judge held-out rows alone, with a model that was tuned on the splits that are used.",
            ),
            Check(
                "perfect",
                "Are predictions the label itself?",
                predictions_are_the_label,
                "No clinical question is answered without a mistake: look for the label among what the model is shown.",
            ),
            Check(
                "lineage",
                "Were the inputs made from each other, with the same delays?",
                other_inputs,
                "Make all of it from one data set, with one delay; ehr-track lineage shows what was made from what.",
            ),
        )
    }
)
"""Every check by name, in the order in which they run."""
