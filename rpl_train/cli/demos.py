"""The commands of `rpl demos`. As in cli/app.py, they import what they need when they run."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rpl_runtime.cli.options import ExecutorName, Json, TaskName, grouped, show, to_write
from rpl_runtime.errors import require
from rpl_train.cli.options import SettingsOptions

if TYPE_CHECKING:
    from rpl_runtime.tasks.task import Task
    from rpl_train.data.sources import Demonstrations
    from rpl_train.data.trajectory import Trajectory

app = typer.Typer(
    help="Demonstrations: play, import, look at and export them.\n\nExample: rpl demos info runs/play",
    no_args_is_help=True,
)

AnyRecordings = Annotated[
    list[Path],
    typer.Argument(
        help="Logs of `rpl run --log` (.mcap) or folders of them, folders written by `rpl demos`, folders of LeRobot "
        "data sets (v3.0); for the kitchen also "
        "HDF5 files in D4RL's layout, raw logs (.mjl) or folders of them, Minari data sets by folder or by name "
        "(D4RL/kitchen/complete-v2)."
    ),
]


@app.command("play")
@grouped
def play_command(
    folder: Annotated[
        Path,
        typer.Argument(callback=to_write, help="Folder for a .npz of each sequence; run again to go on there."),
    ],
    *,
    task_name: TaskName = "kitchen",
    sequences: Annotated[int | None, typer.Option(help="Number of sequences.")] = None,
    shifts: Annotated[
        int | None, typer.Option(help="Work this many shifts instead: goal after goal without a reset, disturbed.")
    ] = None,
    driver: Annotated[
        Path | None,
        typer.Option(help="A finished run, whose policy drives at the beginning of each goal of a shift."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sequences.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes; the sequences are the same for any number.")] = 2,
    executor: ExecutorName = None,
    sheet: Annotated[Path | None, typer.Option(help="Draw the first four sequences here (.png).")] = None,
    options: SettingsOptions,
    as_json: Json = False,
) -> None:
    """Let the demonstrator of a task play, with its noise and detours.

    The kitchen's has settings such as demonstrator.length=1 (elements in a sequence), demonstrator.order=random and
    demonstrator.start=nominal; --show-config prints all. A shift leads elements forward and back, from the arm wherever
    it is, under jolts, pushes and put-backs, and is written in pieces without what these did (demonstrator.shift).

    Example: rpl demos play runs/play --sequences 400 --sheet play.png
    """
    require("torch", "train")
    from dataclasses import replace

    from rpl_runtime.console import progress
    from rpl_runtime.evaluation.figures import check_output
    from rpl_runtime.tasks.pictures import sheet_suffixes
    from rpl_train.data.sheet import contact_sheet
    from rpl_train.data.trajectory import load
    from rpl_train.play import play, print_play
    from rpl_train.shifts.work import print_shifts, work_shifts
    from rpl_train.tasks import load_task

    if sheet is not None:
        check_output(sheet, sheet_suffixes())
    task = load_task(task_name)
    given = {"play.sequences": sequences, "play.shifts": shifts, "play.seed": seed, "play.jobs": jobs}
    given |= {"play.executor": executor}
    settings = options.chosen(task, given)
    task = replace(task, demonstrator=settings.demonstrator)
    if settings.play.shifts:
        with progress(stays=True) as report:
            worked = work_shifts(
                task, settings.play, folder, driver, lambda finished, total: report("shifts", finished, total)
            )
        show(as_json, worked.facts(), lambda: print_shifts(worked))
        return
    with progress(stays=True) as report:
        result = play(task, settings.play, folder, lambda finished, total: report("sequences", finished, total))
    if sheet is not None:
        contact_sheet(task, [load(sequence.path) for sequence in result.sequences[:4]], sheet)
    show(as_json, result.facts(), lambda: print_play(result))


@app.command("import")
def import_command(
    recordings: AnyRecordings,
    out: Annotated[
        Path,
        typer.Option("--out", "--output", "-o", callback=to_write, help="Folder for one .npz per demonstration."),
    ],
    task_name: TaskName = "kitchen",
    replay: Annotated[
        bool, typer.Option("--replay", help="Play the targets through the physics, and save the new states.")
    ] = False,
) -> None:
    """Turn recordings, or the logs of a robot's runs, into a folder of demonstrations with position targets.

    Example: rpl demos import recordings.hdf5 --out runs/people
    """
    from rpl_runtime.console import count, say
    from rpl_train.data.recordings import load_demonstrations
    from rpl_train.data.trajectory import save_folder
    from rpl_train.tasks import load_task

    task = load_task(task_name)
    demonstrations = load_demonstrations(recordings, task)
    trajectories = _replay(task, demonstrations) if replay else demonstrations.trajectories
    save_folder(trajectories, out)
    for sentence in (sentence for source in demonstrations.sources for sentence in source.get("left_out", ())):
        say(f"left out: {sentence}", err=True)
    typer.echo(f"{count(len(trajectories), 'demonstration')} written to {out}")


def _replay(task: "Task", demonstrations: "Demonstrations") -> "list[Trajectory]":
    """Replay demonstrations under a progress bar, and print what they complete."""
    from itertools import count

    from rpl_runtime.console import Console, progress
    from rpl_train.data.replay import replay, replay_table

    trajectories, finished = demonstrations.trajectories, count(1)
    total = len(trajectories)
    with progress(stays=True) as report:
        result = replay(
            task, trajectories, jobs=os.cpu_count() or 1, on_episode=lambda: report("replayed", next(finished), total)
        )
    Console().print(replay_table(result, task.spec))
    return result.trajectories


@app.command("info")
def info_command(
    recordings: AnyRecordings,
    task_name: TaskName = "kitchen",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Count demonstrations: how many, how long, which elements in which order.

    Example: rpl demos info runs/play
    """
    from rpl_train.data.recordings import load_demonstrations
    from rpl_train.data.summary import print_summary, summarise
    from rpl_train.tasks import load_task

    task = load_task(task_name)
    spec = task.spec
    summary = summarise(load_demonstrations(recordings, task), spec)
    show(as_json, summary._asdict(), lambda: print_summary(summary, spec.period_s))


@app.command("hard")
def hard_command(
    recordings: AnyRecordings,
    condition: Annotated[
        list[str] | None, typer.Option(help="Only this condition of the hard protocol, by its name. Repeatable.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each condition.")] = 17,
    seed: Annotated[int, typer.Option(help="First seed of the episodes, as of `rpl evaluate`.")] = 1_000_000,
    jobs: Annotated[int, typer.Option(min=1, help="Simulators in parallel.")] = 2,
    output: Annotated[
        Path | None,
        typer.Option(
            callback=to_write, help="Folder for hard.json, hard.png and the episodes; continues from its episodes."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Replay demonstrations open loop under the hard protocol: for each goal the one whose end is nearest to it.

    `rpl evaluate --protocol hard --beside FOLDER/hard.json` prints a policy's results beside it.

    Example: rpl demos hard runs/play --output runs/hard
    """
    from rpl_runtime.cli.measure.evaluate_options import ResultOptions
    from rpl_runtime.cli.measure.hard import chosen, write_results
    from rpl_runtime.console import progress
    from rpl_runtime.evaluation.protocol import Outcome, ProtocolConfig, run_protocol
    from rpl_runtime.evaluation.protocol_results import content_of
    from rpl_train.data.recordings import load_demonstrations
    from rpl_train.paper.nearest import open_loop
    from rpl_train.tasks import load_task

    task = load_task("kitchen")
    demonstrations = load_demonstrations(recordings, task)
    hardships, config, done = chosen(task, condition), ProtocolConfig(episodes, seed, jobs), list[Outcome]()
    with progress() as report:

        def on_outcome(outcome: Outcome) -> None:
            done.append(outcome)
            report("episodes", len(done), len(hardships) * episodes, outcome.condition)

        outcomes = run_protocol(
            task,
            lambda: open_loop(demonstrations.trajectories),
            lambda robot: lambda: None,
            hardships,
            config,
            {"demonstrations": [source["digest"] for source in demonstrations.sources]},
            None if output is None else output / "episodes.jsonl",
            on_outcome,
        )
    content = content_of("nearest demonstration, open loop", "", hardships, config, task, False, outcomes)
    write_results(content, [], ResultOptions(output=output, as_json=as_json))


@app.command("export")
def export_command(
    recordings: AnyRecordings,
    minari: Annotated[
        Path | None,
        typer.Option(help="Folder of a Minari data set, named NAME-vN; one that exists grows."),
    ] = None,
    lerobot: Annotated[Path | None, typer.Option(help="New folder of a LeRobot data set (v3.0).")] = None,
    video: Annotated[
        bool, typer.Option("--video", help="With --lerobot: draw every step, if the task has a renderer.")
    ] = False,
    task_name: TaskName = "kitchen",
) -> None:
    """Write demonstrations as a data set of Minari or of LeRobot, with their position targets.

    Example: rpl demos export runs/play --lerobot play-lerobot
    """
    from rpl_runtime.console import count
    from rpl_train.data.lerobot import export_lerobot
    from rpl_train.data.minari import export_minari
    from rpl_train.data.recordings import load_demonstrations
    from rpl_train.tasks import load_task

    if (minari is None) == (lerobot is None):
        raise typer.BadParameter("give either --minari or --lerobot")
    if video and lerobot is None:
        raise typer.BadParameter("--video is for --lerobot")
    task = load_task(task_name)
    demonstrations = load_demonstrations(recordings, task)
    licences = dict.fromkeys(source["licence"] for source in demonstrations.sources)
    written = f"{count(len(demonstrations.trajectories), 'demonstration')} written to"
    if minari is not None:
        held = export_minari(task, demonstrations.trajectories, minari, "; ".join(licences))
        typer.echo(f"{written} {minari}, which now holds {held}")
    if lerobot is not None:
        export_lerobot(task, demonstrations.trajectories, lerobot, "; ".join(licences), video)
        typer.echo(f"{written} {lerobot}")
