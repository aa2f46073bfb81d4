"""The options of commands that train, by which every setting can be reached."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rpl_runtime.tasks.task import Task
    from rpl_train.cli.settings import Settings

ConfigFile = Annotated[
    Path | None, typer.Option("--config", exists=True, dir_okay=False, help="A TOML file of settings.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting, such as imitate.pool.named_goals=0.8. Repeatable."),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Device of torch for the networks, such as cuda; default: cpu. Simulators stay on the processor."
    ),
]
ShowConfig = Annotated[bool, typer.Option("--show-config", help="Print all settings as TOML, and do nothing else.")]


def chosen(
    task: "Task", config: Path | None, texts: list[str] | None, given: Mapping[str, Any], show: bool
) -> "Settings":
    """The settings of a command; prints them and exits if that is asked for."""
    from rpl_train.cli.settings import settings_of, shown

    settings = settings_of(task, config, texts or (), given)
    if show:
        typer.echo(shown(settings))
        raise typer.Exit
    return settings
