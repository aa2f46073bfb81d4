"""What the commands of training share: options, above all those by which every setting can be reached, and checks."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rpl_runtime.cli.options import to_write
from rpl_runtime.errors import InvalidInput, RelayError, require

if TYPE_CHECKING:
    from rpl_runtime.tasks.task import Task
    from rpl_train.cli.settings import Settings

Recordings = Annotated[
    list[Path],
    typer.Option(
        "--demos",
        help="Folder written by `rpl demos`, or any recording that `rpl demos import` reads. Repeat for several.",
    ),
]
NewRun = Annotated[
    Path, typer.Argument(callback=to_write, help="Folder of the new run; an interrupted run goes on there.")
]
Seed = Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="Seed of weights, batches and episodes.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Processes; 2 train both levels side by side.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps of each level.")]
Components = Annotated[
    int | None,
    typer.Option(min=1, help="Of the high level's mixture; use several if demonstrators differ in what they do."),
]
COMPONENTS = "imitate.networks.high_components"  # the setting that it is
NAME = "What a server calls the policy; by default the bundle's folder{}. Versions of a policy share one."
Force = Annotated[bool, typer.Option("--force", help="Replace a bundle that stands at BUNDLE.")]
Device = Annotated[
    str | None,
    typer.Option(
        help="Device of torch for the networks, such as cuda; default: cpu. Simulators stay on the processor."
    ),
]


@dataclass(frozen=True, kw_only=True)
class SettingsOptions:
    """The options by which every setting of a stage can be reached."""

    config: Annotated[
        Path | None, typer.Option("--config", exists=True, dir_okay=False, help="A TOML file of settings.")
    ] = None
    texts: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting, such as imitate.steps=5000. Repeatable."),
    ] = None
    show: Annotated[bool, typer.Option("--show-config", help="Print all settings as TOML, and do nothing else.")] = (
        False
    )

    def chosen(self, task: "Task", given: Mapping[str, object]) -> "Settings":
        """The settings of a command; prints them and exits if that is asked for.

        Args:
            given: values by dotted name, from options of their own; None leaves a setting as it is.

        Raises:
            MissingExtra: torch is not installed, which the stages of training import, and so their settings.
        """
        require("torch", "train")
        from rpl_train.cli.settings import settings_of, shown

        settings = settings_of(task, self.config, self.texts or (), given)
        if self.show:
            typer.echo(shown(settings))
            raise typer.Exit
        return settings


def require_exporter() -> None:
    """
    Raises:
        MissingExtra: torch or the exporter is not installed.
    """
    require("torch", "train")
    require("onnxscript", "train")


def check_place(bundle: Path, force: bool, run: Path | None = None) -> None:
    """
    Raises:
        BundleError: something that is not a bundle stands at the path.
        InvalidInput: a bundle stands there that must not be replaced: without `force`, any but an export of `run`.
    """
    from rpl_runtime.policy.bundle import load_bundle, standing_at

    standing = standing_at(bundle)
    if standing is None or force:
        return
    if run is not None:
        from rpl_train.runs import read_run

        with suppress(RelayError):  # one of them is missing or damaged
            if load_bundle(bundle).manifest.provenance == read_run(run).provenance:
                return
    raise InvalidInput(f"{bundle} already holds {standing}; pass --force to replace it, or choose another path")
