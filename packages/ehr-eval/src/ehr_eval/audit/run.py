"""Run the checks whose inputs are there, and write `audit/1`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ehr_eval.audit.checked import Audit, Checked
from ehr_eval.audit.checks import CHECKS, Check
from ehr_eval.audit.config import AuditConfig
from ehr_eval.audit.found import Skipped
from ehr_eval.audit.inputs import Given, Inputs
from ehr_eval.audit.page import write_page
from ehr_eval.frames import PRODUCER
from ehr_tracking.config import ConfigError, to_dict
from ehr_tracking.contracts import AUDIT
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import new_artifact, refuse_existing, seal


def audit(given: Given, config: AuditConfig | None = None) -> Audit:
    """Run the checks.

    Args:
        given: Where what is audited lies.
        config: Which checks, and what is suspicious.

    Raises:
        ContractError: If an input is not what its option says.
        ConfigError: If the config names an unknown check, or a task file is none.
        UserError: If nothing was given.
    """
    return _audit(_opened(given, config or AuditConfig()))


def _opened(given: Given, config: AuditConfig) -> Inputs:
    if not given.paths:
        raise UserError("nothing to audit: give --meds, --labels, --tokens, --features or more")
    unknown = sorted(set(config.checks or ()) - CHECKS.keys())
    if unknown:
        raise ConfigError(f"checks: there is no check {unknown[0]}; there are {', '.join(CHECKS)}")
    return Inputs(given, config)


def _audit(inputs: Inputs) -> Audit:
    names = inputs.config.checks or tuple(CHECKS)
    return Audit(tuple(_run(CHECKS[n], inputs) for n in tqdm(names, "checks", disable=None)))


def _run(check: Check, inputs: Inputs) -> Checked:
    try:
        findings = tuple(check.run(inputs))
    except Skipped as e:
        return Checked(check, "skipped", reason=str(e))
    except UserError as e:
        return Checked(check, "failed", reason=str(e))
    if not findings:
        return Checked(check, "clean")
    found = any(f.severity == "error" for f in findings)
    return Checked(check, "found" if found else "warned", findings)


def write_audit(  # noqa: PLR0913 -- whatever may be audited, each by name
    out: PathLike,
    config: AuditConfig | None = None,
    *,
    meds: PathLike | None = None,
    labels: PathLike | None = None,
    tokens: PathLike | None = None,
    checkpoint: PathLike | None = None,
    features: Mapping[str, PathLike] | None = None,
    predictions: Mapping[str, PathLike] | None = None,
    results: PathLike | None = None,
    shots: PathLike | None = None,
    task_files: Sequence[PathLike] = (),
    show_ids: bool = False,
    overwrite: bool = False,
) -> Audit:
    """Run the checks and write `audit/1`.

    Args:
        out: The artifact.
        config: Which checks, and what is suspicious.
        meds: Data set.
        labels: Of its tasks.
        tokens: Of it.
        checkpoint: That was trained on them.
        features: By the name of the model.
        predictions: By the name of the model.
        results: `results/1`.
        shots: `shots/1`.
        task_files: That the labels are of.
        show_ids: Write whose rows findings are of.
        overwrite: Replace an artifact that is there.

    Raises:
        UserError: As `audit`, or if `out` exists.
    """
    config, out = config or AuditConfig(), Path(out)
    single = {"meds": meds, "labels": labels, "tokens": tokens, "checkpoint": checkpoint}
    single |= {"results": results, "shots": shots}
    given = Given(
        **{name: Path(path) for name, path in single.items() if path is not None},
        features={name: Path(path) for name, path in (features or {}).items()},
        predictions={name: Path(path) for name, path in (predictions or {}).items()},
        task_files=tuple(map(Path, task_files)),
    )
    read = list(given.paths.values())
    refuse_existing(out, AUDIT, overwrite=overwrite, inputs=read)
    inputs = _opened(given, config)
    found = _audit(inputs)
    with new_artifact(out, AUDIT, overwrite=overwrite, inputs=read) as partial:
        rows = {
            "findings.parquet": _write_findings(
                partial / "findings.parquet", found.checked, show_ids
            ),
            "checks.parquet": _write_checks(partial / "checks.parquet", found.checked),
        }
        write_page(partial / "report.html", found.checked, given.paths, show_ids=show_ids)
        seal(
            partial,
            AUDIT,
            producer=PRODUCER,
            config={**to_dict(config), "show_ids": show_ids},
            seed=config.seed,
            inputs=inputs.sources,
            rows=rows,
        )
    return found


def _write_findings(path: Path, checked: Iterable[Checked], show_ids: bool) -> int:
    found = [(each.check.name, f) for each in checked for f in each.findings]
    text: Sequence[tuple[str, list[str]]] = (
        ("check", [name for name, _ in found]),
        ("severity", [f.severity for _, f in found]),
        ("where", [f.where for _, f in found]),
        ("what", [f.what for _, f in found]),
    )
    columns = {name: pa.array(values, pa.string()) for name, values in text}
    columns["count"] = pa.array([f.count for _, f in found], pa.int64())
    subjects = [list(f.subjects) if show_ids else [] for _, f in found]
    columns["subject_ids"] = pa.array(subjects, pa.list_(pa.int64()))
    pq.write_table(pa.table(columns), path)
    return len(found)


def _write_checks(path: Path, checked: Sequence[Checked]) -> int:
    columns = {
        "check": [each.check.name for each in checked],
        "state": [each.state for each in checked],
        "reason": [each.reason for each in checked],
    }
    pq.write_table(pa.table({n: pa.array(v, pa.string()) for n, v in columns.items()}), path)
    return len(checked)
