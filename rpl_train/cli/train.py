"""The command `rpl train`: every stage in turn. As in cli/app.py, it imports what it needs when it runs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rpl_runtime.cli.options import ExecutorName, TaskName, grouped
from rpl_train.cli.export import print_export
from rpl_train.cli.options import (
    COMPONENTS,
    NAME,
    Components,
    Device,
    Force,
    Jobs,
    Seed,
    SettingsOptions,
    Steps,
    check_place,
    require_exporter,
)

if TYPE_CHECKING:
    from rpl_runtime.tasks.task import Task
    from rpl_train.cli.settings import Settings
    from rpl_train.recipe import RecipeConfig


_KITCHEN: Mapping[str, object] = {  # settings of the kitchen's recipe; models/kitchen was made with them
    "play.sequences": 200,
    "imitate.steps": 12_000,
    "imitate.networks.relative": True,
    "imitate.networks.low_hidden": (512, 512, 512),
    "imitate.networks.high_hidden": (512, 512, 512),
    COMPONENTS: 1,
}


class Recipe(StrEnum):
    IMITATE = "imitate"
    RELAY = "relay"
    KITCHEN = "kitchen"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What `rpl train` is asked for."""

    bundle: Annotated[Path, typer.Argument(help="The bundle to write, such as models/mine.")]
    demos: Annotated[
        list[Path] | None, typer.Option(help="As for `rpl imitate`; without any, the task's demonstrator plays first.")
    ] = None
    recipe: Annotated[
        Recipe,
        typer.Option(
            help="imitate: imitation alone, minutes. relay: then fine-tune each goal of the task's first group and "
            "distil them into one policy, hours; models/relay was made so. kitchen: learn from shifts in which the "
            "policy drives more and more, an hour or two; models/kitchen was made so."
        ),
    ] = Recipe.IMITATE
    task_name: TaskName = "kitchen"
    sequences: Annotated[int | None, typer.Option(help="Sequences of play, without --demos.")] = None
    run: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/ and the bundle's name.")] = None
    name: Annotated[str | None, typer.Option(help=NAME.format(""))] = None
    force: Force = False
    steps: Steps = None
    env_steps: Annotated[int | None, typer.Option(min=1, help="Environment steps of each goal's fine-tuning.")] = None
    seed: Seed = None
    components: Components = None
    jobs: Jobs = None
    executor: ExecutorName = None
    device: Device = None
    options: SettingsOptions
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each goal from each start.")] = 20

    def settings(self, task: "Task") -> "Settings":
        """The settings of all stages; prints them and exits if that is asked for."""
        if self.recipe is Recipe.KITCHEN:
            task = replace(task, settings={**task.settings, **_KITCHEN})
        imitations = ("imitate", "aggregate.imitate")
        given: dict[str, object] = {COMPONENTS: self.components, "imitate.steps": self.steps}
        given |= {"finetune.env_steps": self.env_steps}
        given |= {f"{stage}.seed": self.seed for stage in ("play", *imitations, "finetune", "distill")}
        given |= {f"{stage}.device": self.device for stage in (*imitations, "finetune", "distill")}
        given |= {f"{stage}.executor": self.executor for stage in ("play", "distill")}
        given |= {"play.sequences": self.sequences}
        given |= {f"{stage}.jobs": self.jobs for stage in ("play", *imitations, "distill")}
        return self.options.chosen(task, given)

    def config(self, task: "Task") -> "RecipeConfig":
        """The recipe, with the settings of its stages."""
        from rpl_train.recipe import RecipeConfig

        settings = self.settings(task)
        goals = next(iter(task.groups.values())) if self.recipe is Recipe.RELAY else ()
        return RecipeConfig(
            task=replace(task, demonstrator=settings.demonstrator),
            run=self.run or Path("runs") / self.bundle.name,
            bundle=self.bundle,
            name=self.name or self.bundle.absolute().name,
            demonstrations=tuple(self.demos or ()),
            play=settings.play,
            imitate=settings.imitate,
            finetune={goal: replace(settings.finetune, goal=task.goals[goal]) for goal in goals},
            jobs=settings.imitate.jobs,
            executor=settings.play.executor,
            distill=settings.distill,
            parity=settings.parity,
            aggregate=settings.aggregate if self.recipe is Recipe.KITCHEN else None,
        )


@grouped
def train_command(context: typer.Context, asked: TrainOptions) -> None:
    """Train and evaluate a bundle, from demonstrations or from scripted play.

    Each stage is a command of its own: demos play, imitate, finetune, distill, export, evaluate. Run the same command
    again after an interruption: finished stages are kept, and the interrupted one goes on where it stopped.
    A bundle that stands there already is replaced only if it was made of the same run, or with --force.

    Example: rpl train models/mine --seed 1 --components 1
    """
    require_exporter()
    from rpl_runtime.cli.measure.commands import evaluate_command
    from rpl_runtime.console import progress
    from rpl_train.recipe import train
    from rpl_train.tasks import load_task

    config = asked.config(load_task(asked.task_name))
    check_place(asked.bundle, asked.force, config.last_run)
    with progress(stays=True) as report:
        result = train(config, report)
    print_export(result)
    evaluate_command(
        context,
        bundle=asked.bundle,
        task_name=asked.task_name,
        episodes=asked.episodes,
        executor=asked.executor,
        output=config.run / "evaluation",
        write=True,
    )
