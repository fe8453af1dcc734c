"""`ehr-models push`: an export to a hub, through huggingface_hub, which is asked only when a repository is named."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ehr_models import __version__
from ehr_models.exchange.config import CARD, METADATA, SCHEMA, is_of_export
from ehr_tracking.contracts import ADAPTER, CHECKPOINT, ContractError
from ehr_tracking.errors import UserError
from ehr_tracking.files import PathLike
from ehr_tracking.manifest import MANIFEST, load_manifest, verify


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """An export that may leave."""

    directory: Path
    files: Mapping[str, int]
    """Name -> bytes."""
    metadata: Mapping[str, Any]


def pack_up(directory: PathLike) -> Parcel:
    """Check that a directory is an export, whole and unchanged, and holds nothing else.

    Raises:
        ContractError: If it is no export, or a file was changed.
        UserError: If a file is not of the export, or holds rows of subjects.
    """
    directory = Path(directory)
    manifest = load_manifest(directory)
    names = {MANIFEST, *manifest.files}
    if manifest.contract not in (ADAPTER.tag, CHECKPOINT.tag) or not {CARD, METADATA} <= names:
        raise ContractError(
            f"{directory} is no export (it holds {manifest.contract}); write one with ehr-models export"
        )
    wrong = verify(directory)
    if wrong:
        raise ContractError(f"{wrong[0]}; only what the export holds may leave")
    for name in sorted(names):
        if not is_of_export(name):
            raise UserError(f"{directory / name} is no file of an export; nothing was sent")
        if name.endswith(".parquet"):
            columns = pq.read_schema(directory / name).names
            if {"subject_id", "prediction_time", "time"} & set(columns):
                raise UserError(f"{directory / name} holds rows of subjects; nothing was sent")
    metadata = json.loads((directory / METADATA).read_bytes())
    if metadata.get("schema") != SCHEMA:
        raise ContractError(
            f"{directory / METADATA}: schema is {metadata.get('schema')!r}, not {SCHEMA}"
        )
    sizes = {name: (directory / name).stat().st_size for name in sorted(names)}
    return Parcel(directory=directory, files=sizes, metadata=metadata)


def require_repository(name: str) -> None:
    """Raise unless a name is `ORG/NAME` as hubs have them.

    Raises:
        UserError: Saying why it is none.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if name.count("/") != 1:
        raise UserError(f"--repo {name!r} is not of the form ORG/NAME")
    try:
        validate_repo_id(name)
    except HFValidationError as e:
        raise UserError(f"--repo {name!r}: {' '.join(str(e).split())}") from None


def summary(parcel: Parcel) -> list[str]:
    """What would be sent, and what its card says, for a terminal."""
    told = parcel.metadata
    model, words = told["model"], told["tokenizer"]
    least = words["min_subjects"]
    sources = [
        f"{r} {s['contract']} {s['fingerprint'][:16]}" for r, s in told["data"]["sources"].items()
    ]
    return [
        *(f"{size:>15,}  {name}" for name, size in parcel.files.items()),
        f"{sum(parcel.files.values()):>15,}  in all, {len(parcel.files)} files",
        f"title: {told['name']}, version {told['version']}",
        f"licence: {told['licence'] or 'none was given'}",
        f"model: {model['kind']}, {model['parameters']:,} parameters{', an adapter' * model['adapter']}",
        f"data: {'; '.join(sources) or 'not known'}",
        f"vocabulary: {words['tokens']:,} tokens, "
        + (
            "no minimum of subjects per code"
            if (least or 1) < 2
            else f"codes of at least {least} subjects"
        )
        + f", {words['tokens_of_few_subjects']:,} of few subjects",
        f"metrics: {len(told['metrics'])}; results of {len(told['results'])} evaluations",
    ]


def push(
    parcel: Parcel,
    repo: str,
    *,
    endpoint: str | None,
    token: str,
    private: bool,
    revision: str | None,
) -> str:
    """Send an export as one commit; the repository and the branch are made where there are none.

    Args:
        parcel: What is sent.
        repo: `ORG/NAME`.
        endpoint: Of the hub; None: that of the environment, else the public one.
        token: Of somebody who may write there.
        private: Of a repository that is made; one that is there stays as it is.
        revision: Branch; None: the default one.

    Returns:
        Where the commit can be seen.

    Raises:
        UserError: If the hub cannot be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(
        endpoint=endpoint, token=token, library_name="ehr-models", library_version=__version__
    )
    version = parcel.metadata["version"]
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        with warnings.catch_warnings():
            # it takes vocab.parquet for data
            warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
            done = api.create_commit(
                repo,
                [CommitOperationAdd(name, parcel.directory / name) for name in parcel.files],
                commit_message=f"{parcel.metadata['name']}, version {version}",
                commit_description=parcel.metadata["changelog"].get(version, ""),
                revision=revision,
            )
    except HfHubHTTPError as e:
        said = e.server_message or e.response.reason_phrase
        raise UserError(
            f"{api.endpoint}: {repo} was not written: {e.response.status_code} {_line(said)}"
        ) from None
    except Exception as e:  # of whichever client the library is built on
        said = f"{e} {e.__cause__ or ''}"
        raise UserError(f"{api.endpoint}: {repo} was not written: {_line(said)}") from e
    return str(done.commit_url)


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def find_token(file: PathLike | None) -> str:
    """Of a file, else that of huggingface_hub: `HF_TOKEN`, or what `hf auth login` left.

    Raises:
        UserError: If there is none.
    """
    if file is not None:
        try:
            token: str | None = Path(file).read_text(encoding="utf-8").strip()
        except OSError as e:
            raise UserError(f"--token-file {file}: {e.strerror}") from None
    else:
        from huggingface_hub import get_token

        token = get_token()
    if not token:
        raise UserError("no token: set HF_TOKEN, or name a file that holds it with --token-file")
    return token
