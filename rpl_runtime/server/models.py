"""The models of a server: which one answers a call, and how a new version replaces an old one.

A name stands for one model at a time. The model that held the name before is retired: Control streams that are open on
it go on, and it answers calls that name its digest, such as those of a run that broke off, for as long as there is
room. An unloaded model is dropped with the last stream on it. All of this runs in one thread; only `prepare`, which
takes long, may run in any.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rpl_runtime.errors import BundleError, LimitReached, ModelNotFound, ProtocolViolation, ServerUnavailable, hint
from rpl_runtime.planning.planning import Planning
from rpl_runtime.planning.port import Port
from rpl_runtime.policy.bundle import Bundle, load_bundle
from rpl_runtime.policy.graphs import CPU, OnnxPolicy
from rpl_runtime.policy.trial import open_policy
from rpl_runtime.relay.messages import FileInfo, ModelInfo


@dataclass(eq=False)
class Model:
    """A policy that is ready to answer."""

    bundle: Bundle
    policy: OnnxPolicy
    info: ModelInfo  # the reply of Describe
    planner: Port | None = None  # plans for its robots; None: its own high level does, within the step
    streams: int = 0  # number of Control streams on it
    retired: bool = False  # answers only calls that name its digest
    leaving: bool = False  # dropped with the last stream on it

    @property
    def name(self) -> str:
        return self.bundle.spec.name

    @property
    def digest(self) -> str:
        return self.bundle.digest


def prepare(path: Path, planning: Planning | None = None, providers: str = CPU) -> Model:
    """Check the bundle at a path and warm up its policy.

    Raises:
        BundleError: it cannot be used.
        As `model_of`.
    """
    return model_of(load_bundle(path), planning, providers)


def model_of(bundle: Bundle, planning: Planning | None = None, providers: str = CPU) -> Model:
    """The model of a checked bundle, after its trial and warm.

    Raises:
        BundleError: it cannot be run.
        InvalidInput: an execution provider is not installed, or does not start; or the planner plans for other states.
        PlannerLost, ProtocolViolation: no planner answers.
    """
    about = {name: FileInfo(len(file), hashlib.sha256(file).hexdigest()) for name, file in bundle.files.items()}
    policy = open_policy(bundle, providers)
    planner = None if planning is None else planning.port(policy)
    plan_s = 0.0 if planner is None else planner.deadline_s
    info = ModelInfo(bundle.spec, bundle.digest, bundle.manifest.schema_version, about, plan_s)
    return Model(bundle, policy, info, planner)


class Models:
    """The models in memory.

    Args:
        most: the largest number of models in memory, retired ones included.
        providers: ONNX Runtime's execution providers of new models.
    """

    def __init__(self, most: int, providers: str = CPU) -> None:
        self._most, self.providers = most, providers
        self._active: dict[str, Model] = {}  # by name; the first is the default
        self._retired: list[Model] = []  # in the order in which they were retired

    @property
    def active(self) -> list[Model]:
        """The models that calls can name, the default first."""
        return list(self._active.values())

    @property
    def all(self) -> list[Model]:
        """The active models, then the retired ones."""
        return self.active + self._retired

    def find(self, name: str | None = None, digest: str | None = None) -> Model:
        """The model for a call that names neither, one, or both.

        Raises:
            ServerUnavailable: no model is served yet.
            ModelNotFound: no model of that name is served.
            BundleError: no model has that digest.
        """
        if not self._active:
            raise ServerUnavailable("the server still loads its models; try again soon")
        if digest is not None:
            for model in self.all:
                if model.digest == digest and name in (None, model.name):
                    return model
            served = ", ".join(model.digest[:12] for model in self.active)
            raise BundleError(f"the server runs bundle {served}; this call is for bundle {digest[:12]} alone")
        if name is None:
            return next(iter(self._active.values()))
        if name not in self._active:
            near = hint(name, self._active)
            raise ModelNotFound(f"no model is named {name!r}{near}; served are {', '.join(self._active)}")
        return self._active[name]

    def put(self, model: Model) -> Model | None:
        """Serve a model. Returns the model of the same name that it replaces, now retired, or None.

        If the same bundle is here already, retired, that model becomes active again.

        Raises:
            LimitReached: no room is left, and every retired model still has a stream.
        """
        before = self._active.get(model.name)
        if before is not None and before.digest == model.digest:
            return None
        again = next((old for old in self._retired if old.digest == model.digest), None)
        if again is not None:  # with the streams that are still on it
            self._retired.remove(again)
            again.retired = again.leaving = False
            model = again
        while again is None and len(self.all) >= self._most:
            unused = next((old for old in self._retired if not old.streams), None)
            if unused is None:
                raise LimitReached(
                    f"as many models are loaded as this server takes ({self._most}); unload one, or wait for the runs "
                    f"on those that are retired"
                )
            self._retired.remove(unused)
        self._active[model.name] = model
        if before is not None:
            before.retired = True
            self._retired.append(before)
        return before

    def unload(self, named: str) -> Model:
        """Take the model with a name or a digest out of service; it is dropped with the last stream on it.

        Raises:
            ModelNotFound: there is no such model.
            ProtocolViolation: it is the only model in service.
        """
        model = next((model for model in self.all if named in (model.name, model.digest)), None)
        if model is None:
            near = hint(named, self._active)
            raise ModelNotFound(
                f"no model is named {named!r}, nor has that digest{near}; served are {', '.join(self._active)}"
            )
        if not model.retired:
            if len(self._active) == 1:
                raise ProtocolViolation(f"{model.name} is the last model; load another before it is unloaded")
            del self._active[model.name]
            model.retired = True
            self._retired.append(model)
        model.leaving = True
        self._drop_if_unused(model)
        return model

    def enter(self, model: Model) -> None:
        """Count a stream that opens on a model."""
        model.streams += 1

    def leave(self, model: Model) -> None:
        """Count a stream that has ended on a model."""
        model.streams -= 1
        self._drop_if_unused(model)

    def _drop_if_unused(self, model: Model) -> None:
        if model.leaving and not model.streams and model in self._retired:
            self._retired.remove(model)
