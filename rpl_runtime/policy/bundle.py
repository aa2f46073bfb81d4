"""The bundle: a folder that holds a policy and everything a person or a runtime needs to know of it.

    manifest.json    the spec, training statistics, provenance and the digest of each graph; sealed
    high.onnx        high(state, goal, mask, noise) -> subgoal
    low.onnx         low(state, subgoal, noise) -> action
    evaluation.json  what the policy was measured to do, naming the bundle it was measured on; sealed
    MODEL_CARD.md    the same for people; sealed

In: a folder. Out: a `Bundle` whose every byte has been checked. This is the only module that reads or writes one;
it knows neither how the graphs are made nor how they are run.

Sealed means that a file carries the SHA-256 of its own other content, so that a changed byte in any file is found.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rpl_runtime.errors import BundleCorrupt, BundleError, BundleNotFound, UnsupportedSchema
from rpl_runtime.policy.card import render_card
from rpl_runtime.policy.manifest import SCHEMA_VERSION, Manifest
from rpl_runtime.policy.spec import PolicySpec

MANIFEST, HIGH, LOW, EVALUATION, CARD = (
    "manifest.json",
    "high.onnx",
    "low.onnx",
    "evaluation.json",
    "MODEL_CARD.md",
)
FILES = (MANIFEST, HIGH, LOW, EVALUATION, CARD)


@dataclass(frozen=True)
class Bundle:
    """A checked bundle."""

    path: Path
    manifest: Manifest
    digest: str  # its identity: SHA-256 over the manifest, which holds the digests of the graphs
    evaluation: dict[str, Any] | None

    @property
    def spec(self) -> PolicySpec:
        return self.manifest.spec

    @property
    def high(self) -> Path:
        return self.path / HIGH

    @property
    def low(self) -> Path:
        return self.path / LOW


def load_bundle(path: Path) -> Bundle:
    """Read a bundle and check every file of it.

    Raises:
        BundleNotFound: there is no manifest, or a graph is missing.
        UnsupportedSchema: the manifest is of another schema version.
        BundleCorrupt: a file is not what its digest says.
        BundleError: the manifest is sound but cannot be used.
    """
    path = Path(path)
    content = _unseal_json(_read(path, MANIFEST), path / MANIFEST, _check_version)
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{path / MANIFEST} cannot be used: {where}: {first['msg']}") from error
    for name in (HIGH, LOW):
        _read_graph(path, name, manifest)
    digest = _digest(content)
    return Bundle(path, manifest, digest, _read_evaluation(path, digest))


def write_bundle(path: Path, manifest: Manifest, high: bytes, low: bytes) -> Bundle:
    """Write a new bundle, whole or not at all. The digests of the graphs are filled in here.

    Raises:
        BundleError: something else stands at the path.
    """
    digests = {HIGH: hashlib.sha256(high).hexdigest(), LOW: hashlib.sha256(low).hexdigest()}
    manifest = manifest.model_copy(update={"files": digests})
    content = manifest.model_dump(mode="json")
    card = _seal_card(render_card(manifest, _digest(content), None).encode())
    return store_files(path, {MANIFEST: _seal_json(content), HIGH: high, LOW: low, CARD: card})


def read_graph(bundle: Bundle, name: str) -> bytes:
    """The bytes of a graph, checked again: the folder may have been written to since.

    Raises:
        BundleNotFound: it is gone.
        BundleCorrupt: it is not what the manifest says.
    """
    return _read_graph(bundle.path, name, bundle.manifest)


def read_files(bundle: Bundle) -> dict[str, bytes]:
    """The content of every file of a bundle, by name, the graphs checked again.

    Raises:
        As `read_graph`.
    """
    beside = {name: _read(bundle.path, name) for name in (MANIFEST, EVALUATION, CARD) if (bundle.path / name).exists()}
    return beside | {name: read_graph(bundle, name) for name in (HIGH, LOW)}


def store_files(path: Path, files: dict[str, bytes]) -> Bundle:
    """Write the files of a bundle, checked, whole or not at all.

    Raises:
        BundleError: something else stands at the path, a name is no bundle's, or the files are no sound bundle.
    """
    path = Path(path)
    _check_replaceable(path)
    if unknown := set(files) - set(FILES):
        raise BundleError(f"a bundle has no file {sorted(unknown)[0]!r}; its files are {', '.join(FILES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        for name, content in files.items():
            (staging / name).write_bytes(content)
        staging.chmod(0o755)
        load_bundle(staging)
        _swap(staging, path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return load_bundle(path)


def standing_at(path: Path) -> str | None:
    """The name and short digest of the bundle that `store_files` would replace at a path, None where there is none.

    Raises:
        BundleError: something else stands at the path.
    """
    _check_replaceable(path)
    if not path.exists() or not any(path.iterdir()):
        return None
    try:
        bundle = load_bundle(path)
    except BundleError:
        return "a bundle that cannot be read"
    return f"{bundle.spec.name} {bundle.digest[:12]}"


def _check_replaceable(path: Path) -> None:
    """A folder that is replaced is removed: nothing of anybody's may be in it but a bundle, however damaged."""
    if not path.exists():
        return
    found = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if not path.is_dir() or (found and MANIFEST not in found):
        raise BundleError(f"{path} exists and is not a bundle; choose another path or remove it")
    if others := sorted(found - set(FILES)):
        raise BundleError(f"{path} holds {others[0]}, which is not the bundle's; choose another path or move it away")


def attach_evaluation(bundle: Bundle, evaluation: dict[str, Any]) -> Bundle:
    """Put what was measured beside the policy it was measured on, and into its card.

    Raises:
        BundleError: it was measured on another bundle.
    """
    content = {"bundle_digest": bundle.digest} | evaluation
    if content["bundle_digest"] != bundle.digest:
        raise BundleError(
            f"the evaluation was measured on bundle {str(content['bundle_digest'])[:12]}; "
            f"{bundle.path} is {bundle.digest[:12]}, and takes only its own"
        )
    _replace(bundle.path / EVALUATION, _seal_json(content))
    _replace(bundle.path / CARD, _seal_card(render_card(bundle.manifest, bundle.digest, content).encode()))
    return load_bundle(bundle.path)


def _read_graph(path: Path, name: str, manifest: Manifest) -> bytes:
    content, expected = _read(path, name), manifest.files.get(name)
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise BundleCorrupt(f"{path / name} has digest {found[:12]}, but the manifest says {str(expected)[:12]}")
    return content


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BundleNotFound(f"{path} holds no {name}; a bundle is a folder written by `rpl export`") from None
    except OSError as error:
        raise BundleError(f"{path / name} cannot be read: {error.strerror}") from error


def _swap(staging: Path, path: Path) -> None:
    """Put a finished folder in the place of an older one, which stands beside it until the new one is there."""
    older = staging.with_name(f"{staging.name}.older")
    if path.exists():
        os.replace(path, older)
    try:
        os.replace(staging, path)
    except BaseException:
        if older.exists():
            os.replace(older, path)
        raise
    shutil.rmtree(older, ignore_errors=True)


def _replace(path: Path, content: bytes) -> None:
    staging = path.with_name(f".{path.name}.tmp")
    staging.write_bytes(content)
    os.replace(staging, path)


def _canonical(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(_canonical(content)).hexdigest()


def _seal_json(content: dict[str, Any]) -> bytes:
    return _canonical(content | {"digest": _digest(content)})


def _unseal_json(raw: bytes, path: Path, check: Callable[[dict[str, Any], Path], None] | None = None) -> dict[str, Any]:
    try:
        sealed = dict(json.loads(raw))
        content = {key: value for key, value in sealed.items() if key != "digest"}
        resealed = _seal_json(content)
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleCorrupt(f"{path} is not the JSON object that a bundle holds: {error}") from error
    if check is not None:
        check(sealed, path)
    # Comparing the bytes, not the parsed values, finds a change anywhere in the file.
    if raw != resealed:
        raise BundleCorrupt(f"{path} is not what its own digest says; fetch or export the bundle again")
    return content


def _check_version(sealed: dict[str, Any], path: Path) -> None:
    version = sealed.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UnsupportedSchema(
            f"{path} has schema version {version}; this version of relay-policy reads {SCHEMA_VERSION}"
        )


def _read_evaluation(path: Path, digest: str) -> dict[str, Any] | None:
    card = path / CARD
    if card.exists() and _seal_card(_SEAL.sub(b"", _read(path, CARD))) != _read(path, CARD):
        raise BundleCorrupt(f"{card} is not what its own digest says; fetch or export the bundle again")
    if not (path / EVALUATION).exists():
        return None
    content = _unseal_json(_read(path, EVALUATION), path / EVALUATION)
    if content.get("bundle_digest") != digest:
        raise BundleCorrupt(
            f"{path / EVALUATION} was measured on bundle {str(content.get('bundle_digest'))[:12]}, "
            f"but this one is {digest[:12]}; run `rpl evaluate` again"
        )
    return content


_SEAL = re.compile(rb"<!-- sha256 of the text above: [0-9a-f]{64} -->\n\Z")


def _seal_card(text: bytes) -> bytes:
    return text + f"<!-- sha256 of the text above: {hashlib.sha256(text).hexdigest()} -->\n".encode()
