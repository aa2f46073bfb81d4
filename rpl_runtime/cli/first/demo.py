"""`rpl demo`: the policy that comes with the project moves a simulated kitchen, and a film shows it."""

from pathlib import Path
from typing import Annotated

import typer

from rpl_runtime.console import Console

GOAL = "microwave,kettle"
_STEPS = 100  # [control steps] at most; both elements take about 90


def demo_command(
    video: Annotated[Path, typer.Option(help="The film to write (.mp4).")] = Path("demo.mp4"),
    filmed: Annotated[bool, typer.Option("--film/--no-film", help="Film it, which takes most of the time.")] = True,
) -> None:
    """See a robot at work, within a minute: the shipped policy opens the microwave and moves the kettle.

    It serves the policy over gRPC, runs a simulated robot as its client, and films it; the translucent robot in the
    film is the subgoal. Needs the sim extra.

    Example: rpl demo
    """
    from rpl_runtime.cli.measure.standard import write_film
    from rpl_runtime.cli.options import Server
    from rpl_runtime.cli.run import RunOptions, run_simulated
    from rpl_runtime.client import Access
    from rpl_runtime.evaluation.evaluate import EvaluateConfig, plan_trials
    from rpl_runtime.evaluation.figures import check_output
    from rpl_runtime.server.subprocess import serve_in_process
    from rpl_runtime.shipped import shipped
    from rpl_runtime.tasks.load import DEFAULT, load_task
    from rpl_runtime.tasks.pictures import video_suffixes

    task, console = load_task(DEFAULT), Console(soft_wrap=True, highlight=False)
    if filmed:
        check_output(video, video_suffixes())
    with serve_in_process(shipped("models/kitchen")) as address:
        options = RunOptions(
            goal=GOAL,
            server=Server(address, Access()),
            robot_id="demo",
            steps=_STEPS,
            until_done=True,
        )
        code = run_simulated(options, task, None, None, None)
        if filmed:
            config = EvaluateConfig(goals=(GOAL,), episodes=1, starts=(next(iter(task.starts)),), steps=_STEPS)
            write_film(address, Access(), task, config, plan_trials(task, config)[0], video=video)
    shown = f"{video} shows it; " if filmed and video.exists() else ""
    console.print(f"{shown}next: rpl models pull kitchen, rpl serve models/kitchen, rpl docs", markup=False)
    raise typer.Exit(code)
