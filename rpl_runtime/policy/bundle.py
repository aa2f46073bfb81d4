"""The bundle: a folder that holds a policy and everything a person or a runtime needs to know about it.

    manifest.json    the spec, training statistics, provenance and the digest of each graph; sealed
    high.onnx        high(state, goal, mask, noise) -> subgoal; not in a bundle that names its planner's service instead
    low.onnx         low(state, subgoal, noise) -> action
    evaluation.json  the measured performance, with the digest of the bundle that was measured; sealed
    MODEL_CARD.md    the same for people; sealed

Only this module reads or writes bundles, and it checks every byte. A sealed file carries the SHA-256 of its own other
content, so that a changed byte in any file is found. Each file is read once: the bytes that were checked are the bytes
that are used.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from rpl_runtime.errors import BundleCorrupt, BundleError, BundleNotFound, UnsupportedSchema
from rpl_runtime.files import JsonDict, followed, locked, read, staged
from rpl_runtime.policy.card import render_card
from rpl_runtime.policy.manifest import PLANNER, SCHEMA_VERSION, Evaluation, Manifest
from rpl_runtime.policy.spec import PolicySpec

MANIFEST = "manifest.json"
HIGH, LOW = "high.onnx", "low.onnx"
EVALUATION = "evaluation.json"
CARD = "MODEL_CARD.md"
FILES = (MANIFEST, HIGH, LOW, EVALUATION, CARD)
_MOST: dict[str, int] = {name: (512 if name in (HIGH, LOW) else 16) << 20 for name in FILES}  # [bytes] of each file
_DEEPEST = 32  # [levels] of a JSON file
_Content = TypeVar("_Content", Manifest, Evaluation)
_SEAL = re.compile(rb"<!-- sha256 of the text above: [0-9a-f]{64} -->\n\Z")


@dataclass(frozen=True)
class Bundle:
    """A checked bundle."""

    path: Path
    manifest: Manifest
    digest: str  # its identity: SHA-256 over the manifest, which holds the digests of the graphs
    evaluation: JsonDict | None
    files: Mapping[str, bytes] = field(repr=False, compare=False)  # name -> content, as it was checked

    @property
    def spec(self) -> PolicySpec:
        return self.manifest.spec

    @property
    def graphs(self) -> tuple[str, ...]:
        """The files of its levels, the high level first if it holds one."""
        return _graphs(self.manifest)

    @property
    def high(self) -> Path:
        return self.path / HIGH

    @property
    def low(self) -> Path:
        return self.path / LOW


def load_bundle(path: Path) -> Bundle:
    """Read a bundle and check all of its files.

    Raises:
        BundleNotFound: there is no manifest, or a graph is missing.
        UnsupportedSchema: the manifest has another schema version.
        BundleCorrupt: a file does not match its digest.
        BundleError: the manifest is intact but cannot be used.
    """
    path = Path(path)
    files = {MANIFEST: _read(path, MANIFEST)}
    content = _unseal_json(path / MANIFEST, files[MANIFEST])
    manifest = _validated(Manifest, content, path / MANIFEST)
    if HIGH not in _graphs(manifest) and (path / HIGH).exists():
        raise BundleCorrupt(f"{path} holds {HIGH}, but its manifest says that {manifest.planner} plans")
    for name in _graphs(manifest):
        files[name] = _read(path, name)
        found, expected = hashlib.sha256(files[name]).hexdigest(), manifest.files.get(name)
        if found != expected:
            raise BundleCorrupt(f"{path / name} has digest {found[:12]}, but the manifest says {str(expected)[:12]}")
    files |= {name: _read(path, name) for name in (EVALUATION, CARD) if (path / name).exists()}
    digest, evaluation = _digest(content), None
    if CARD in files and _seal_card(_SEAL.sub(b"", files[CARD])) != files[CARD]:
        raise BundleCorrupt(f"{path / CARD} does not match its own digest; fetch or export the bundle again")
    if EVALUATION in files:
        evaluation = _unseal_json(path / EVALUATION, files[EVALUATION])
        if evaluation.get("bundle_digest") != digest:
            raise BundleCorrupt(
                f"{path / EVALUATION} was measured on bundle {str(evaluation.get('bundle_digest'))[:12]}, "
                f"but this one is {digest[:12]}; run `rpl evaluate` again"
            )
        _validated(Evaluation, evaluation, path / EVALUATION)
    return Bundle(path, manifest, digest, evaluation, files)


def write_bundle(path: Path, manifest: Manifest, high: bytes | None, low: bytes) -> Bundle:
    """Write a new bundle, whole or not at all. The digests of the graphs are filled in here.

    Args:
        path: of its folder.
        manifest: its content but for the graphs.
        high: the high level's graph; None: a planner sets the subgoals.
        low: the low level's graph.

    Raises:
        BundleError: the path holds something other than a bundle.
    """
    graphs = {LOW: low} if high is None else {HIGH: high, LOW: low}
    digests = {name: hashlib.sha256(graph).hexdigest() for name, graph in graphs.items()}
    planner = PLANNER if high is None else None
    manifest = manifest.model_copy(update={"files": digests, "planner": planner})
    content = manifest.model_dump(mode="json")
    card = _seal_card(render_card(manifest, _digest(content), None).encode())
    return store_files(path, {MANIFEST: _seal_json(content), **graphs, CARD: card})


def store_files(path: Path, files: dict[str, bytes]) -> Bundle:
    """Write the files of a bundle, checked, whole or not at all.

    Raises:
        BundleError: the path holds something other than a bundle, or the files are not a valid bundle.
    """
    path = followed(Path(path))
    _check_replaceable(path)
    if unknown := set(files) - set(FILES):
        raise BundleError(f"a bundle has no file {sorted(unknown)[0]!r}; its files are {', '.join(FILES)}")
    with locked(path):
        try:
            staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        except OSError as error:
            error.filename = str(path)  # nobody knows the staging name
            raise
        older = staging.with_name(f"{staging.name}.older")  # a folder cannot be renamed onto another
        try:
            for name, content in files.items():
                with staged(staging / name) as file:
                    file.write_bytes(content)
            staging.chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o755)
            load_bundle(staging)
            if path.exists():
                os.replace(path, older)
            try:
                os.replace(staging, path)
            except BaseException:
                if older.exists():
                    os.replace(older, path)
                raise
        except BaseException as error:
            shutil.rmtree(staging, ignore_errors=True)
            if isinstance(error, OSError):
                error.filename = str(path)  # not a file of the folder that was just removed
            raise
        shutil.rmtree(older, ignore_errors=True)
        return load_bundle(path)


def standing_at(path: Path) -> str | None:
    """The name and short digest of the bundle that `store_files` would replace at a path, None if there is none.

    Raises:
        BundleError: the path holds something other than a bundle, or this user cannot write there.
        OSError: its links lead in a circle.
    """
    followed(path)
    _check_replaceable(path)
    if not path.exists() or not any(path.iterdir()):
        return None
    try:
        bundle = load_bundle(path)
    except BundleError:
        return "a bundle that cannot be read"
    return f"{bundle.spec.name} {bundle.digest[:12]}"


def attach_evaluation(bundle: Bundle, evaluation: JsonDict) -> Bundle:
    """Write an evaluation into the bundle that it was measured on, and into its card.

    Raises:
        BundleError: it was measured on another bundle.
    """
    content = {"bundle_digest": bundle.digest} | evaluation
    if content["bundle_digest"] != bundle.digest:
        raise BundleError(
            f"the evaluation was measured on bundle {str(content['bundle_digest'])[:12]}; "
            f"must be {bundle.digest[:12]}, which is at {bundle.path}"
        )
    card = render_card(bundle.manifest, bundle.digest, content).encode()
    with locked(bundle.path):
        for name, sealed in ((EVALUATION, _seal_json(content)), (CARD, _seal_card(card))):
            with staged(bundle.path / name) as file:
                file.write_bytes(sealed)
    return load_bundle(bundle.path)


def _graphs(manifest: Manifest) -> tuple[str, ...]:
    return (HIGH, LOW) if manifest.planner is None else (LOW,)


def _check_replaceable(path: Path) -> None:
    """Check that a folder, which replacing it removes, holds only a bundle, however damaged."""
    if not path.exists():
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir():
            raise BundleError(f"{path} cannot be made, since {above} is not a folder; choose another path")
        if not os.access(above, os.W_OK):
            raise BundleError(f"{path} cannot be made, since {above} cannot be written to; choose another path")
        return
    found = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if not path.is_dir() or (found and MANIFEST not in found):
        raise BundleError(f"{path} exists and is not a bundle; choose another path or remove it")
    if others := sorted(found - set(FILES)):
        raise BundleError(f"{path} holds {others[0]}, which is not the bundle's; choose another path or move it away")


def _validated(kind: type[_Content], content: JsonDict, file: Path) -> _Content:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{file} cannot be used: {where}: {first['msg']}") from error


def _read(path: Path, name: str) -> bytes:
    try:
        return read(path / name, _MOST[name])
    except (FileNotFoundError, NotADirectoryError):
        wrong = f"holds no {name}" if path.is_dir() else "is not a folder" if path.exists() else "does not exist"
        raise BundleNotFound(
            f"{path} {wrong}; a bundle is a folder of `rpl export` or `rpl models pull kitchen`"
        ) from None
    except OSError as error:
        raise BundleError(f"{path / name} cannot be read: {error.strerror}") from error


def _depth(value: object) -> int:
    """The levels of objects and lists within each other."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _canonical(content: JsonDict) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _digest(content: JsonDict) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()


def _seal_json(content: JsonDict) -> bytes:
    return _canonical(content | {"digest": _digest(content)})


def _seal_card(text: bytes) -> bytes:
    return text + f"<!-- sha256 of the text above: {hashlib.sha256(text).hexdigest()} -->\n".encode()


def _unseal_json(file: Path, raw: bytes) -> JsonDict:
    try:
        sealed = dict(json.loads(raw))
        if _depth(sealed) > _DEEPEST:
            raise RecursionError(f"it is nested deeper than {_DEEPEST} levels")
        content = {key: value for key, value in sealed.items() if key != "digest"}
        resealed = _seal_json(content)
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleCorrupt(f"{file} is not the JSON object that a bundle holds: {error}") from error
    version = sealed.get("schema_version")
    if file.name == MANIFEST and version != SCHEMA_VERSION:
        raise UnsupportedSchema(
            f"{file} has schema version {version}; this version of relay-policy reads {SCHEMA_VERSION}"
        )
    # Comparing the bytes, not the parsed values, finds a change anywhere in the file.
    if raw != resealed:
        raise BundleCorrupt(f"{file} does not match its own digest; fetch or export the bundle again")
    return content
