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

from rpl_runtime.card import render_card
from rpl_runtime.errors import BundleCorrupt, BundleError, BundleNotFound, UnsupportedSchema
from rpl_runtime.manifest import SCHEMA_VERSION, Manifest
from rpl_runtime.spec import PolicySpec

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
        found, expected = hashlib.sha256(_read(path, name)).hexdigest(), manifest.files.get(name)
        if found != expected:
            raise BundleCorrupt(f"{path / name} has digest {found[:12]}, but the manifest says {str(expected)[:12]}")
    digest = _digest(content)
    return Bundle(path, manifest, digest, _read_evaluation(path, digest))


def write_bundle(path: Path, manifest: Manifest, high: bytes, low: bytes) -> Bundle:
    """Write a new bundle, whole or not at all. The digests of the graphs are filled in here.

    Raises:
        BundleError: something else stands at the path.
    """
    path = Path(path)
    if path.exists() and not (path / MANIFEST).is_file() and any(path.iterdir() if path.is_dir() else [path]):
        raise BundleError(f"{path} exists and is not a bundle; choose another path or remove it")
    files = {HIGH: hashlib.sha256(high).hexdigest(), LOW: hashlib.sha256(low).hexdigest()}
    manifest = manifest.model_copy(update={"files": files})
    content = manifest.model_dump(mode="json")
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        (staging / MANIFEST).write_bytes(_seal_json(content))
        (staging / HIGH).write_bytes(high)
        (staging / LOW).write_bytes(low)
        (staging / CARD).write_bytes(_seal_card(render_card(manifest, _digest(content), None)))
        staging.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(staging, path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return load_bundle(path)


def attach_evaluation(bundle: Bundle, evaluation: dict[str, Any]) -> Bundle:
    """Put what was measured beside the policy it was measured on, and into its card."""
    content = {"bundle_digest": bundle.digest} | evaluation
    _replace(bundle.path / EVALUATION, _seal_json(content))
    _replace(bundle.path / CARD, _seal_card(render_card(bundle.manifest, bundle.digest, content)))
    return load_bundle(bundle.path)


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BundleNotFound(f"{path} holds no {name}; a bundle is a folder written by `rpl export`") from None
    except OSError as error:
        raise BundleError(f"{path / name} cannot be read: {error.strerror}") from error


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
        sealed = json.loads(raw)
    except ValueError as error:
        raise BundleCorrupt(f"{path} is not JSON: {error}") from error
    if not isinstance(sealed, dict):
        raise BundleCorrupt(f"{path} holds a JSON {type(sealed).__name__}; expected an object")
    if check is not None:
        check(sealed, path)
    content = {key: value for key, value in sealed.items() if key != "digest"}
    # Comparing the bytes, not the parsed values, finds a change anywhere in the file.
    if raw != _seal_json(content):
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
    if card.exists() and _seal_card(_SEAL.sub("", card.read_text())) != card.read_bytes():
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


_SEAL = re.compile(r"<!-- sha256 of the text above: [0-9a-f]{64} -->\n\Z")


def _seal_card(text: str) -> bytes:
    return f"{text}<!-- sha256 of the text above: {hashlib.sha256(text.encode()).hexdigest()} -->\n".encode()
