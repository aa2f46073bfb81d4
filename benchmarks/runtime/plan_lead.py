"""What a slow network costs with the low level beside the robot, and what planning ahead gives back.

    python benchmarks/runtime/plan_lead.py models/kitchen

The kitchen waits for its robot, so it is paced here by the clock, as a real one would be: a control period of 0.08 s
lasts 0.08 s, and 280 of them 22 s. Each is driven by the action for the state observed at its beginning, where that
action comes within IN_TIME_S; otherwise the target of the period before is held, and the action is refused once it is
older than a period. What goes to the server is delayed on the wire. All episodes take the modes of both levels.

A plan_lead has a cost of its own, whatever the network: the plan is made for an older state. `rpl evaluate
models/kitchen --start perturbed --plan-lead 3` measures that one, without a clock. "Waited" are the periods before the
first action.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rpl_runtime.client.on_robot import on_robot_control
from rpl_runtime.client.reconnect import ReconnectConfig
from rpl_runtime.evaluation.evaluate import FIRST_SEED, episode_seed, parse_goals
from rpl_runtime.loop.clock import MonotonicClock, Schedule
from rpl_runtime.loop.punctual import Punctual
from rpl_runtime.provenance import command, commit
from rpl_runtime.robots.simulated import KitchenRobot
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.tasks.kitchen.elements import EPISODE_STEPS, ROBOT_DIM
from rpl_runtime.tasks.kitchen.simulator import PERTURBED

IN_TIME_S = 0.02  # [s] from an observation to the action it is to be driven by
ROBOT = "bench"


class Episode(NamedTuple):
    done: int  # elements of the goal that were done at any step
    success: bool
    waited: int  # periods before the first action, for which no plan can be asked ahead
    held: int  # later periods without an action
    missed: int  # periods that the simulator itself was too slow for


def main(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    goals: Annotated[str, typer.Option(help="Goals as `rpl evaluate` takes them: paper, mkbs, ...")] = "paper",
    limit: Annotated[int, typer.Option(min=1, help="Goals to take, the first of them.")] = 17,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each goal, from perturbed starts.")] = 3,
    leads: Annotated[str, typer.Option(help="plan_lead, with commas [steps].")] = "0,3",
    delays: Annotated[str, typer.Option(help="Delays, with commas [ms].")] = "0,200",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Success of paced episodes at each plan_lead and delay."""
    tasks = [
        (elements, episode_seed(FIRST_SEED, elements, episode))
        for _, elements in parse_goals(goals)[:limit]
        for episode in range(episodes)
    ]
    conditions = [(int(lead), float(delay)) for delay in delays.split(",") for lead in leads.split(",")]
    console = Console(stderr=True)
    rows = []
    with serve_in_process(bundle) as address, closing(KitchenRobot(PERTURBED)) as robot:
        for lead, delay_ms in conditions:
            with delayed(address, delay_ms / 1e3) as far:
                what = f"lead {lead}, delay {delay_ms:g} ms"
                played = [play(robot, far, *task, lead) for task in track(tasks, what, console=console, transient=True)]
            rows.append({"plan_lead": lead, "delay_ms": delay_ms} | summary(played))
    content = {"rows": rows, "in_time_s": IN_TIME_S, "goals": goals, "command": command(), "commit": commit()}
    if as_json:
        typer.echo(json.dumps(content, indent=1))
    else:
        Console().print(table(content))


def play(robot: KitchenRobot, address: str, elements: tuple[str, ...], seed: int, lead: int) -> Episode:
    """One episode against the clock."""
    robot.reset(seed)
    control = on_robot_control(address, ReconnectConfig(waits=False))
    state = robot.observe()
    target, ever, waited, held, missed = state[:ROBOT_DIM], set[str](), 0, 0, 0
    with Punctual(control, ROBOT) as punctual:
        control.start(ROBOT, elements, state, plan_lead=lead)
        schedule = Schedule(MonotonicClock(), control.model.spec.period_s)
        for _ in range(EPISODE_STEPS):
            missed += schedule.wait().missed
            action = punctual.step(state, IN_TIME_S)
            if action is not None:
                target = action.target
            elif punctual.number == 0:
                waited += 1
            else:
                held += 1
            robot.apply(target)
            ever |= robot.done()
            state = robot.observe()
    done = ever.intersection(elements)
    return Episode(len(done), len(done) == len(elements), waited, held, missed)


def summary(played: list[Episode]) -> dict[str, Any]:
    return {
        "episodes": len(played),
        "success": float(np.mean([episode.success for episode in played])),
        "elements_done": float(np.mean([episode.done for episode in played])),
        "periods_waited": float(np.mean([episode.waited for episode in played])),
        "periods_held": float(np.mean([episode.held for episode in played])),
        "periods_missed": int(sum(episode.missed for episode in played)),
    }


def table(content: dict[str, Any]) -> Table:
    found = Table(title="paced by the clock, low level beside the robot", header_style="bold")
    for heading in (
        "delay",
        "plan_lead",
        "episodes",
        "success",
        "elements",
        "waited",
        f"held of {EPISODE_STEPS}",
        "missed",
    ):
        found.add_column(heading, justify="right")
    for row in content["rows"]:
        found.add_row(
            f"{row['delay_ms']:g} ms",
            str(row["plan_lead"]),
            str(row["episodes"]),
            f"{row['success']:.1%}",
            f"{row['elements_done']:.2f}",
            f"{row['periods_waited']:.1f}",
            f"{row['periods_held']:.1f}",
            str(row["periods_missed"]),
        )
    return found


@contextmanager
def delayed(address: str, delay_s: float) -> Iterator[str]:
    """A way to a server on which all that goes there takes so long; what comes back does not."""
    ready: Future[tuple[str, Callable[[], object]]] = Future()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        with closing(writer):
            while data := await reader.read(1 << 16):
                loop.call_at(loop.time() + wait_s, writer.write, data)
            await asyncio.sleep(wait_s)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(*address.split(":"))
        with suppress(asyncio.CancelledError):  # the end
            await asyncio.gather(pump(reader, to_server, delay_s), pump(from_server, writer, 0.0))

    async def serve() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        ready.set_result((f"{host}:{port}", lambda: loop.call_soon_threadsafe(stop.set)))
        await stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    where, stop = ready.result()
    try:
        yield where
    finally:
        stop()
        thread.join()


if __name__ == "__main__":
    typer.run(main)
