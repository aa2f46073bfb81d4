"""The training commands of `rpl`, added to its app through the entry-point group `rpl.commands`.

Commands import what they need when they run, so a missing extra is one sentence and `rpl --help` stays fast.
"""

from pathlib import Path
from typing import Annotated

import typer

from rpl_runtime.cli.options import TaskName, grouped
from rpl_runtime.errors import require
from rpl_train.cli import demos as demos_cli
from rpl_train.cli import goals as goals_cli
from rpl_train.cli.export import export_command
from rpl_train.cli.improve import improve_command
from rpl_train.cli.options import COMPONENTS, Components, Device, Jobs, NewRun, Recordings, Seed, SettingsOptions, Steps
from rpl_train.cli.train import train_command


def register(app: typer.Typer) -> None:
    """Add the training commands to `rpl`."""
    app.add_typer(demos_cli.app, name="demos")
    app.command("imitate")(imitate_command)
    app.command("export")(export_command)
    app.command("novelty")(novelty_command)
    app.command("stall")(stall_command)
    app.command("train")(train_command)
    app.command("improve")(improve_command)
    goals_cli.register(app)


@grouped
def imitate_command(
    run: NewRun,
    demos: Recordings,
    *,
    task_name: TaskName = "kitchen",
    steps: Steps = None,
    seed: Seed = None,
    components: Components = None,
    jobs: Jobs = None,
    device: Device = None,
    options: SettingsOptions,
) -> None:
    """Relay imitation learning of both levels.

    Checkpoints are saved on the way: run the same command again to go on. Watch the losses with
    `tensorboard --logdir RUN`.

    Example: rpl imitate runs/base --demos runs/play --components 1
    """
    require("torch", "train")
    from rpl_runtime.console import progress
    from rpl_train.cli.progress import losses
    from rpl_train.data.recordings import load_demonstrations
    from rpl_train.imitate import imitate
    from rpl_train.tasks import load_task

    task = load_task(task_name)
    given: dict[str, object] = {"imitate.steps": steps, "imitate.seed": seed, "imitate.jobs": jobs}
    given |= {COMPONENTS: components, "imitate.device": device}
    settings = options.chosen(task, given).imitate
    with progress(stays=True) as report:
        imitate(load_demonstrations(demos, task), task, run, settings, losses(report, settings.steps))
    typer.echo(f"{run} is trained; `rpl export {run} models/NAME` makes a bundle of it")


def novelty_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder; it is written again.")],
    demos: Recordings,
    task_name: TaskName = "kitchen",
) -> None:
    """Add the out-of-distribution score to an older bundle.

    Bundles that `rpl export` writes now have it. The graphs stay the same; the bundle gets a new digest and loses its
    evaluation: `rpl evaluate BUNDLE --write` makes it again.

    Example: rpl novelty models/mine --demos runs/play
    """
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_train.data.recordings import load_demonstrations
    from rpl_train.export.novelty import add_novelty
    from rpl_train.tasks import load_task

    added = add_novelty(load_bundle(bundle), load_demonstrations(demos, load_task(task_name)))
    typer.echo(f"{bundle} scores states now; its digest is {added.digest}")


def stall_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder; it is written again.")],
    task_name: TaskName = "kitchen",
    rate: Annotated[
        float, typer.Option(help="Share of the episodes that reach their goal and may ask for help all the same.")
    ] = 0.02,
    episodes: Annotated[int, typer.Option(min=1, help="Held-out episodes, from the task's starts in turn.")] = 136,
) -> None:
    """Let a policy ask for help where it makes no progress toward its goal.

    The limit is measured on held-out episodes that reach their goal, so that few of such ask in vain. The graphs stay
    the same; the bundle gets a new digest and loses its evaluation: `rpl evaluate BUNDLE --write` makes it again.

    Example: rpl stall models/mine
    """
    require("torch", "train")
    from rpl_runtime.console import Console
    from rpl_runtime.evaluation.evaluate import check_policy
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_train.export.stall import StallConfig, add_stall
    from rpl_train.tasks import load_task

    found, task = load_bundle(bundle), load_task(task_name)
    check_policy(found.spec, task)
    with Console(stderr=True).status("playing held-out episodes"):
        added = add_stall(found, task, StallConfig(rate=rate, episodes=episodes))
    stall = added.manifest.stall
    assert stall is not None
    typer.echo(
        f"{bundle} asks for help above {stall.limit:.1f}, by {stall.episodes} episodes that reached their goal; "
        f"its digest is {added.digest}"
    )
