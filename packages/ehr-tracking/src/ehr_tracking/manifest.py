"""`manifest.json`: what an artifact directory is, who wrote it, from what; sealed last.

A directory without a manifest is unfinished and no reader opens it: that, with the rename in
`new_artifact`, is the whole crash safety. Files are on the disk before the manifest is, and the
manifest before the rename, so it holds where the machine stops too. A manifest holds no time, host or path outside its
directory, so the same work gives the same bytes. Each manifest carries the lineage of its inputs
with their fingerprints (the SHA-256 of their manifests), so that a result can be traced to the raw
data without the directories in between, and checked by hash where they are at hand.
"""

import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ehr_tracking.config import STRICT
from ehr_tracking.contracts import CONTRACTS, Contract, ContractError
from ehr_tracking.errors import UnfinishedError, UserError
from ehr_tracking.files import PathLike, share, sync_all, write_whole
from ehr_tracking.outputs import held, refuse_inputs, swap_in
from ehr_tracking.tree import files_below, walk

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Source:
    """One input of an artifact, with its own inputs."""

    contract: str
    producer: str
    fingerprint: str
    """SHA-256 of the input's manifest; for raw data, of the list of its files' hashes."""
    inputs: "dict[str, Source]" = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class File:
    """One file of an artifact."""

    bytes: int
    sha256: str
    rows: int | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Manifest:
    """The identity card of one artifact directory."""

    contract: str
    producer: str
    """Distribution and version, e.g. `ehr-tokenize 0.1.0`."""
    config: dict[str, Any]
    seed: int | None
    inputs: dict[str, Source]
    files: dict[str, File]
    """Path below the directory -> file. An artifact inside is listed by its manifest alone."""


def sha256(path: PathLike) -> str:
    """The hex SHA-256 of a file, read in blocks."""
    with Path(path).open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _hashes(paths: Sequence[Path], workers: int) -> list[str]:
    with ThreadPoolExecutor(workers) as pool:  # hashing holds no lock on the interpreter
        return list(pool.map(sha256, paths))


@contextmanager
def new_artifact(
    out: PathLike,
    contract: Contract,
    *,
    overwrite: bool = False,
    inputs: Iterable[PathLike] = (),
    key: str | None = None,
) -> Iterator[Path]:
    """Yield a directory beside `out`; move it to `out` when the block ends without error.

    The block writes its files there and calls `seal` last. The directory is empty, unless `key` is
    given and a run with the same key was killed, interrupted or `UnfinishedError`: then it holds what that
    run wrote. No other process can write `out` meanwhile.

    Args:
        out: Where the artifact shall be.
        contract: What it will be.
        overwrite: Replace an artifact of this contract that is there; never anything else.
        inputs: What the command reads.
        key: Lower-case hexadecimal digits, the same for runs that can go on from each other.

    Raises:
        UserError: If `out` exists and may not be replaced, or another run is writing it.
    """
    out = Path(out)
    with held(out):
        refuse_existing(out, contract, overwrite=overwrite, inputs=inputs)
        partial = out.with_name(f".{out.name}.{key}.partial" if key else f".{out.name}.partial")
        for left in _unfinished(out):  # by runs that were killed
            if not key or left != partial:
                shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        keep = False
        try:
            yield partial
            if not (partial / MANIFEST).is_file():
                raise AssertionError(f"{out} was not sealed")
            swap_in(partial, out)
        except (KeyboardInterrupt, UnfinishedError):
            keep = key is not None
            raise
        finally:
            if not keep:
                shutil.rmtree(partial, ignore_errors=True)


def _unfinished(out: Path) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(out.name)}(\.[0-9a-f]+)?\.partial")
    beside = out.parent.iterdir() if out.parent.is_dir() else ()
    return [p for p in beside if pattern.fullmatch(p.name)]


def refuse_existing(
    out: PathLike, contract: Contract, *, overwrite: bool, inputs: Iterable[PathLike] = ()
) -> None:
    """Raise unless `out` is free, empty, or an artifact of a contract that may be overwritten.

    Args:
        out: Where an artifact shall be.
        contract: What it will be.
        overwrite: Whether one that is there may go.
        inputs: What the command reads: never replaced, nor what holds it or lies inside of it.

    Raises:
        UserError: Saying which of these it is.
    """
    out = Path(out)
    refuse_inputs(out, inputs)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise UserError(f"{out} exists and is not an artifact of ours; choose another path")
    found = load_manifest(out)
    if found.contract.partition("/")[0] != contract.name:
        raise UserError(
            f"{out} holds {found.contract} (written by {found.producer}), which {contract.name} "
            "shall not replace; choose another path"
        )
    if not overwrite:
        raise UserError(f"{out} exists; choose another path or pass --overwrite")


def seal(
    directory: PathLike,
    contract: Contract,
    *,
    producer: str,
    config: Mapping[str, Any],
    seed: int | None = None,
    inputs: Mapping[str, Source] | None = None,
    rows: Mapping[str, int] | None = None,
    workers: int = 1,
) -> Manifest:
    """Hash every file below `directory`, wait for the disk, and write the manifest last, whole.

    Who may read the directory may read the files behind it.

    Args:
        directory: Holds the finished files.
        contract: What they are.
        producer: Distribution and version.
        config: Resolved configuration, plain JSON values.
        seed: Of everything random in it.
        inputs: Role -> source, from `source` or `raw_source`.
        rows: Path below `directory` -> rows, for tables.
        workers: Threads.
    """
    directory = Path(directory)
    paths = [p for p in _listed(directory) if p != MANIFEST]
    hashes = _hashes([directory / p for p in paths], workers)
    folders = {above for p in paths for above in (directory / p).parents}
    share(directory / p for p in paths)
    sync_all([directory / p for p in paths])
    sync_all(folder for folder in folders if folder.is_relative_to(directory))
    manifest = Manifest(
        contract=contract.tag,
        producer=producer,
        config=dict(config),
        seed=seed,
        inputs=dict(inputs or {}),
        files={
            p: File(
                bytes=(directory / p).stat().st_size,
                sha256=h,
                rows=(rows or {}).get(p),
            )
            for p, h in zip(paths, hashes, strict=True)
        },
    )
    write_whole(directory / MANIFEST, manifest_text(manifest))
    return manifest


def manifest_text(manifest: Manifest) -> str:
    """A manifest as its file holds it."""
    return TypeAdapter(Manifest).dump_json(manifest, indent=1).decode() + "\n"


def load_manifest(directory: PathLike) -> Manifest:
    """Read the manifest of any artifact.

    Raises:
        ContractError: If there is none, or it is damaged, or a path in it leaves the directory.
    """
    directory = Path(directory)
    path = directory / MANIFEST
    if not directory.is_dir():
        raise ContractError(f"{directory}: no such directory")
    if not path.is_file():
        raise ContractError(f"{directory} has no {MANIFEST}: not an artifact, or unfinished")
    try:
        manifest = TypeAdapter(Manifest).validate_json(path.read_bytes())
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ContractError(f"{path} is damaged: {where or 'JSON'}: {first['msg']}") from None
    for name in manifest.files:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name:
            raise ContractError(f"{path}: file path {name!r} leaves the directory")
    return manifest


def read_manifest(directory: PathLike, contract: Contract, *, reader: str) -> Manifest:
    """Open an artifact that another package wrote.

    Args:
        directory: The artifact.
        contract: What the caller can read.
        reader: Distribution and version of the caller, for the message.

    Raises:
        ContractError: If it is unfinished, damaged, or holds another contract.
    """
    directory = Path(directory)
    manifest = load_manifest(directory)
    if manifest.contract != contract.tag:
        raise ContractError(
            f"{directory} holds {manifest.contract} (written by {manifest.producer}), "
            f"but {reader} reads {contract.tag}"
        )
    return manifest


def check_file(directory: Path, manifest: Manifest, name: str) -> Path:
    """The path of one file of an artifact, after checking that it is as it was sealed.

    Raises:
        ContractError: If it is not listed, missing, or changed.
    """
    problem = _file_problem(directory, name, manifest.files.get(name))
    if problem:
        raise ContractError(f"{directory / name} {problem}; write the artifact again")
    return directory / name


def source(directory: PathLike) -> Source:
    """An artifact as an input of another: what it is and its own lineage."""
    directory = Path(directory)
    manifest = load_manifest(directory)
    return Source(
        contract=manifest.contract,
        producer=manifest.producer,
        fingerprint=sha256(directory / MANIFEST),
        inputs=manifest.inputs,
    )


def ancestry(inputs: Mapping[str, Source]) -> Iterator[tuple[str, Source]]:
    """Inputs and what they were made from, each by its role, behind what was made from it.

    Examples:
        >>> raw = Source(contract="meds/0.4", producer="unknown", fingerprint="a")
        >>> tokens = Source(contract="tokens/1", producer="p", fingerprint="b", inputs={"meds": raw})
        >>> [role for role, _ in ancestry({"tokens": tokens, "risks": raw})]
        ['tokens', 'meds', 'risks']
    """
    for role, item in inputs.items():
        yield role, item
        yield from ancestry(item.inputs)


def raw_source(
    directory: Path, *, contract: str, producer: str = "unknown", workers: int = 1
) -> Source:
    """Files that carry no manifest (a MEDS data set, a user's labels) as an input.

    Args:
        directory: Every file below it that is not hidden counts, by relative path and content; a
            file as well.
        contract: E.g. `meds/0.4`.
        producer: Who wrote it, where that is known.
        workers: Threads.
    """
    if (directory / MANIFEST).is_file():
        return source(directory)
    files = [directory] if directory.is_file() else files_below(directory, quiet=True)
    digest = hashlib.sha256()
    for path, hashed in zip(files, _hashes(files, workers), strict=True):
        line = f"{hashed}  {path.relative_to(directory).as_posix()}\n"
        digest.update(line.encode(errors="surrogateescape"))  # a name may be any bytes
    return Source(contract=contract, producer=producer, fingerprint=digest.hexdigest())


def verify(directory: PathLike) -> list[str]:
    """Compare every file of an artifact, and of artifacts inside it, with the manifest.

    Returns:
        One line for each difference; empty where all holds.

    Raises:
        ContractError: If the manifest itself cannot be read.
    """
    directory = Path(directory)
    manifest = load_manifest(directory)
    name, _, version = manifest.contract.partition("/")
    damaged, problems = _damaged(directory, manifest), []
    if name not in CONTRACTS or version != str(CONTRACTS[name].version):
        problems.append(
            f"{directory}: {manifest.contract} is not a contract that this version knows"
        )
    problems += [f"{directory / path} {problem}" for path, problem in damaged.items()]
    for path in manifest.files:
        if PurePosixPath(path).name == MANIFEST and path not in damaged:
            problems += verify((directory / path).parent)
    extra = set(_listed(directory)) - manifest.files.keys() - {MANIFEST}
    return problems + [f"{directory / p} is not in the manifest" for p in sorted(extra)]


def damage(directory: Path) -> list[str]:
    """What of an artifact is missing or was changed since it was sealed, a line each.

    Raises:
        ContractError: If the manifest itself cannot be read.
    """
    found = _damaged(directory, load_manifest(directory))
    return [f"{directory / path} {problem}" for path, problem in found.items()]


def _damaged(directory: Path, manifest: Manifest) -> dict[str, str]:
    """File -> what is wrong with it."""
    found = {path: _file_problem(directory, path, file) for path, file in manifest.files.items()}
    return {path: problem for path, problem in found.items() if problem}


def _file_problem(directory: Path, name: str, file: File | None) -> str | None:
    path = directory / name
    if file is None:
        return "is not in the manifest"
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != file.bytes:
        return f"was changed: {path.stat().st_size} bytes, sealed with {file.bytes}"
    return None if sha256(path) == file.sha256 else "was changed: its SHA-256 differs"


def _listed(directory: Path) -> list[str]:
    """Relative paths of all files; of an artifact inside, only its manifest; no memory-mapped stores."""
    found: list[Path] = []
    for folder, folders, files in walk(directory):
        if folder != directory and MANIFEST in files:
            folders.clear()
            files[:] = [MANIFEST]
        folders[:] = [f for f in folders if not (f.startswith(".") and f.endswith(".store"))]
        found += [path for path in (folder / name for name in files) if path.is_file()]
    return [path.relative_to(directory).as_posix() for path in sorted(found)]
