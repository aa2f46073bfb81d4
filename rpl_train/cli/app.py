"""The training commands of `rpl`, added to its app through the entry-point group `rpl.commands`.

Commands import what they need when they run: a missing extra is one sentence, and `rpl --help` stays instant.
"""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rpl_runtime.errors import InvalidInput, RelayError, require
from rpl_train.cli import demos as demos_cli
from rpl_train.cli import goals as goals_cli
from rpl_train.cli.goals import Jobs, Recordings, Seed

if TYPE_CHECKING:
    from rpl_runtime.policy.manifest import Provenance, Statistics
    from rpl_runtime.policy.spec import PolicySpec
    from rpl_train.data.sources import Demonstrations
    from rpl_train.export.export import ExportResult
    from rpl_train.imitate import ImitateConfig
    from rpl_train.networks import RelayPolicy
    from rpl_train.runs import TrainedRun
    from rpl_train.specialise import SpecialiseConfig

Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps of each level.")]
Components = Annotated[
    int, typer.Option(min=1, help="Of the high level's mixture: several where demonstrators differ in what comes next.")
]

Name = Annotated[
    str | None,
    typer.Option(
        help="What a server calls the policy; by default the bundle's folder (with --from, what its spec says). "
        "Versions of a policy share one."
    ),
]
_DISTILLED = "distilled"  # the last run of the relay recipe, in the folder of the first

Force = Annotated[bool, typer.Option("--force", help="Replace a bundle that stands at BUNDLE.")]


def register(app: typer.Typer) -> None:
    """Add the training commands to `rpl`."""
    app.add_typer(demos_cli.app, name="demos")
    app.command("imitate")(imitate_command)
    app.command("export")(export_command)
    app.command("novelty")(novelty_command)
    app.command("train")(train_command)
    goals_cli.register(app)


def imitate_command(
    run: Annotated[Path, typer.Argument(help="Folder of the run; one that was broken off goes on there.")],
    demos: Recordings,
    steps: Steps = 20_000,
    seed: Seed = 0,
    components: Components = 4,
    jobs: Jobs = 2,
) -> None:
    """Relay imitation learning of both levels.

    Checkpoints are written on the way: run the same command again to go on. Watch the losses with
    `tensorboard --logdir RUN`.
    """
    require("torch", "train")
    from rpl_train.data.sources import load_demonstrations
    from rpl_train.imitate import ImitateConfig
    from rpl_train.networks import NetworkConfig

    networks = NetworkConfig(high_components=components)
    _imitate(load_demonstrations(demos), run, ImitateConfig(steps=steps, seed=seed, jobs=jobs, networks=networks))
    typer.echo(f"{run} is trained; `rpl export {run} models/NAME` makes a bundle of it")


def _imitate(demonstrations: "Demonstrations", run: Path, config: "ImitateConfig") -> "TrainedRun":
    """Imitate the kitchen's demonstrations under a progress bar for each level."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from rpl_runtime.tasks.kitchen.elements import STATE_DIM, kitchen_spec
    from rpl_train.imitate import imitate
    from rpl_train.runs import LEVELS

    columns = (
        TextColumn("{task.description:>4} level"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns) as bars:
        tasks = {level: bars.add_task(level, total=config.steps, loss="") for level in LEVELS}
        return imitate(
            demonstrations,
            kitchen_spec("kitchen", high_noise=config.networks.high_noise(STATE_DIM)),
            run,
            config,
            lambda level, step, loss: bars.update(
                tasks[level], completed=step, loss="trained before" if loss is None else f"loss {loss:.3f}"
            ),
        )


def export_command(
    paths: Annotated[
        list[Path], typer.Argument(metavar="[RUN] BUNDLE", help="The run (not with --from), and the bundle to write.")
    ],
    factory: Annotated[
        str | None,
        typer.Option("--from", metavar="MODULE:FACTORY", help="A function that returns (high, low, spec) instead."),
    ] = None,
    name: Name = None,
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Make a bundle of a trained run, or of anyone's two torch modules.

    Nothing is written where the graphs differ from the modules over whole episodes. A bundle that stands there already
    is replaced only with --force.
    """
    if len(paths) != (1 if factory else 2):
        wanted = "with --from give one path, the bundle" if factory else "give two paths, the run and the bundle"
        raise typer.BadParameter(f"{wanted}; got {' '.join(map(str, paths))}")
    require("torch", "train")
    _check_place(paths[-1], force)
    from rpl_train.export.factory import load_factory
    from rpl_train.runs import load_run

    if factory:
        custom = load_factory(factory)
        result = _export(paths[0], name or custom.spec.name, custom.policy, custom.spec, custom.provenance)
    else:
        policy, record = load_run(paths[0])
        named = name or _folder_name(paths[1])
        result = _export(paths[1], named, policy, record.spec, record.provenance, record.statistics)
    if as_json:
        typer.echo(json.dumps(result.facts(), indent=1))
    else:
        _print_export(result)


def _check_place(bundle: Path, force: bool, run: Path | None = None) -> None:
    """
    Raises:
        BundleError: something that is not a bundle stands at the path.
        InvalidInput: a bundle stands there that may not be replaced: without `force`, none but an export of `run`.
    """
    from rpl_runtime.policy.bundle import standing_at

    standing = standing_at(bundle)
    if standing is not None and not force and not (run is not None and _is_export_of(bundle, run)):
        raise InvalidInput(f"{bundle} already holds {standing}; pass --force to replace it, or choose another path")


def _is_export_of(bundle: Path, run: Path) -> bool:
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_train.runs import read_run

    try:
        return load_bundle(bundle).manifest.provenance == read_run(run).provenance
    except RelayError:  # one of them is missing or damaged
        return False


def _folder_name(bundle: Path) -> str:
    return bundle.absolute().name


def _export(
    bundle: Path,
    name: str,
    policy: "RelayPolicy",
    spec: "PolicySpec",
    provenance: "Provenance",
    statistics: "Statistics | None" = None,
) -> "ExportResult":
    require("onnxscript", "train")
    from rich.console import Console

    from rpl_train.export.export import export

    with Console(stderr=True).status("exporting, and comparing whole episodes with the modules"):
        return export(policy, spec.model_copy(update={"name": name}), provenance, bundle, statistics)


def _print_export(result: "ExportResult") -> None:
    from rich.console import Console

    from rpl_train.export.export import result_table

    Console(markup=False, highlight=False).print(result_table(result))


def novelty_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder; it is written anew.")],
    demos: Recordings,
) -> None:
    """Let the server of an older bundle say how far a state is from the training data.

    What `rpl export` writes now can do so by itself. The graphs stay as they are; the bundle's identity becomes another
    and its evaluation is left out: `rpl evaluate BUNDLE --write` makes it again.
    """
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_train.data.sources import load_demonstrations
    from rpl_train.export.novelty import add_novelty

    added = add_novelty(load_bundle(bundle), load_demonstrations(demos))
    typer.echo(f"{bundle} scores states now; its digest is {added.digest}")


class Recipe(StrEnum):
    IMITATE = "imitate"
    RELAY = "relay"


def train_command(
    bundle: Annotated[Path, typer.Argument(help="The bundle to write, such as models/mine.")],
    demos: Annotated[
        list[Path] | None, typer.Option(help="As for `rpl imitate`; without any, scripted play is made first.")
    ] = None,
    recipe: Annotated[
        Recipe,
        typer.Option(
            help="imitate: imitation alone, minutes. relay: then fine-tune each of the 17 compound goals and distil "
            "them into one policy, hours; models/kitchen was made so."
        ),
    ] = Recipe.IMITATE,
    sequences: Annotated[int, typer.Option(help="Sequences of scripted play, where no --demos are named.")] = 400,
    run: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/ and the bundle's name.")] = None,
    name: Name = None,
    force: Force = False,
    steps: Steps = 20_000,
    env_steps: Annotated[int, typer.Option(min=1, help="Environment steps of each goal's fine-tuning.")] = 120_000,
    seed: Seed = 0,
    components: Components = 4,
    jobs: Jobs = 2,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each goal from each start.")] = 20,
) -> None:
    """From demonstrations, or from nothing, to an evaluated bundle.

    Each stage is a command of its own: demos play, imitate, finetune, distill, export, evaluate. Run the same command
    again after an interruption: what is trained stays trained, and what was broken off goes on where it stopped.
    A bundle that stands there already is replaced only if it was made of the same run, or with --force.
    """
    require("torch", "train")
    from rpl_runtime.cli.measure import evaluate_command
    from rpl_train.data.sources import load_demonstrations
    from rpl_train.imitate import ImitateConfig
    from rpl_train.networks import NetworkConfig
    from rpl_train.specialise import SpecialiseConfig

    run = run or Path("runs") / bundle.name
    _check_place(bundle, force, run / _DISTILLED if recipe is Recipe.RELAY else run)
    if not demos:
        from rpl_train.tasks.kitchen.play import PlayConfig

        demos = [demos_cli.play(run / "play", PlayConfig(sequences, seed=seed, jobs=jobs)).folder]
    networks = NetworkConfig(high_components=components)
    config = ImitateConfig(steps=steps, seed=seed, jobs=jobs, networks=networks)
    trained = _imitate(load_demonstrations(demos), run, config)
    if recipe is Recipe.RELAY:
        trained = _specialise_and_distil(run, demos, SpecialiseConfig(env_steps=env_steps, seed=seed, jobs=jobs))
    policy, record = trained
    named = name or _folder_name(bundle)
    _print_export(_export(bundle, named, policy, record.spec, record.provenance, record.statistics))
    evaluate_command(bundle, episodes=episodes, output=run / "evaluation", write=True)


def _specialise_and_distil(run: Path, demos: list[Path], config: "SpecialiseConfig") -> "TrainedRun":
    """One policy from the imitated one in a run's folder, by way of a specialist for each goal."""
    from rpl_train.cli.progress import bar
    from rpl_train.data.sources import load_demonstrations
    from rpl_train.distill import DistillConfig, distill
    from rpl_train.runs import load_run
    from rpl_train.specialise import specialise

    with bar("goals", len(config.goals)) as report:
        specialists = specialise(run, demos, run / "specialists", config, report)
    settings = DistillConfig(seed=config.seed)
    with bar("rounds", settings.rounds) as report:
        return distill(load_run(run), load_demonstrations(demos), specialists, run / _DISTILLED, settings, report)
