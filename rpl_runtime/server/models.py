"""The models of a server: which one a call is for, and how one takes another's place.

In: checked bundles, and the names and digests that calls carry. Out: the model that answers. It does not know calls or
streams beyond their number, and belongs to one thread; `prepare` alone, which takes long, may run in any.

A name stands for one model at a time. What held the name before is retired: the Control streams on it go on, and it
answers calls that name its digest, as those of runs that began on it and broke off do, for as long as there is room.
One that was unloaded is forgotten with the last stream on it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rpl_runtime.errors import BundleError, LimitReached, ModelNotFound, ProtocolViolation
from rpl_runtime.policy.bundle import Bundle, load_bundle, read_files
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.relay.messages import FileInfo, ModelInfo


@dataclass(eq=False)
class Model:
    """A policy that is ready to answer."""

    bundle: Bundle
    policy: OnnxPolicy
    files: dict[str, bytes]  # of the bundle, as they were checked
    info: ModelInfo  # what Describe says of it
    streams: int = 0  # Control streams on it
    retired: bool = False  # answers only calls that name its digest
    leaving: bool = False  # and is forgotten with the last stream on it

    @property
    def name(self) -> str:
        return self.bundle.spec.name

    @property
    def digest(self) -> str:
        return self.bundle.digest


def prepare(path: Path) -> Model:
    """Check a bundle and make its policy ready.

    Raises:
        BundleError: it cannot be used.
    """
    model = model_of(load_bundle(path))
    model.policy.warm_up()
    return model


def model_of(bundle: Bundle) -> Model:
    """The model of a checked bundle, not warm yet.

    Raises:
        BundleError: it cannot be run.
    """
    files = read_files(bundle)
    about = {name: FileInfo(len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()}
    info = ModelInfo(bundle.spec, bundle.digest, bundle.manifest.schema_version, about)
    return Model(bundle, OnnxPolicy(bundle), files, info)


class Models:
    """What is served.

    Args:
        most: how many models there may be, the retired ones with them.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._active: dict[str, Model] = {}  # by name; the first is the default
        self._retired: list[Model] = []  # the longest retired first

    @property
    def active(self) -> list[Model]:
        """The models that calls can name, the default first."""
        return list(self._active.values())

    @property
    def all(self) -> list[Model]:
        """The same, and then those that are retired."""
        return self.active + self._retired

    def find(self, name: str | None = None, digest: str | None = None) -> Model:
        """The model for a call that names neither, one, or both.

        Raises:
            ModelNotFound: none is served under that name.
            BundleError: none has that digest.
        """
        if digest is not None:
            return self._with_digest(digest, name)
        if name is None:
            return next(iter(self._active.values()))
        if name not in self._active:
            raise ModelNotFound(f"no model is named {name!r}; served are {', '.join(self._active)}")
        return self._active[name]

    def put(self, model: Model) -> Model | None:
        """Serve a model, and retire the one of its name, if there was one; that one is returned.

        Where the same bundle was served before and is only retired, that model is active again.

        Raises:
            LimitReached: there are as many as there may be, and a stream on each of those that are retired.
        """
        before = self._active.get(model.name)
        if before is not None and before.digest == model.digest:
            return None
        again = next((old for old in self._retired if old.digest == model.digest), None)
        if again is None:
            self._make_room()
        else:  # with the streams that are still on it
            self._retired.remove(again)
            again.retired = again.leaving = False
            model = again
        self._active[model.name] = model
        if before is not None:
            self._retire(before)
        return before

    def unload(self, named: str) -> Model:
        """Take the model with a name or a digest out of service; one on which streams are ends with the last of them.

        Raises:
            ModelNotFound: there is none.
            ProtocolViolation: it is the last one.
        """
        model = next((model for model in self.all if named in (model.name, model.digest)), None)
        if model is None:
            raise ModelNotFound(
                f"no model is named {named!r}, nor has that digest; served are {', '.join(self._active)}"
            )
        if not model.retired:
            if len(self._active) == 1:
                raise ProtocolViolation(f"{model.name} is the last model; load another before it is unloaded")
            del self._active[model.name]
            self._retire(model)
        model.leaving = True
        self._forget_if_left(model)
        return model

    def enter(self, model: Model) -> None:
        """A stream on a model begins."""
        model.streams += 1

    def leave(self, model: Model) -> None:
        """A stream on a model is over."""
        model.streams -= 1
        self._forget_if_left(model)

    def _with_digest(self, digest: str, name: str | None) -> Model:
        for model in self.all:
            if model.digest == digest and name in (None, model.name):
                return model
        served = ", ".join(model.digest[:12] for model in self._active.values())
        raise BundleError(f"the server runs bundle {served}; this call is for bundle {digest[:12]} alone")

    def _retire(self, model: Model) -> None:
        model.retired = True
        self._retired.append(model)

    def _forget_if_left(self, model: Model) -> None:
        if model.leaving and not model.streams and model in self._retired:
            self._retired.remove(model)

    def _make_room(self) -> None:
        while len(self.all) >= self._most:
            unused = next((model for model in self._retired if not model.streams), None)
            if unused is None:
                raise LimitReached(
                    f"{len(self.all)} models are loaded, as many as this server takes; unload one, or wait for the "
                    f"runs on those that are retired"
                )
            self._retired.remove(unused)
