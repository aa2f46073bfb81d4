"""Success with the low level beside the robot over a slow network, with and without planning ahead.

    python -m benchmarks.runtime.plan_lead models/relay

Simulators pause between steps; here the clock paces the kitchen, as a real one: a control period takes 0.08 s, and 280
of them 22 s. A period uses the action for the state observed at its beginning if that action comes within IN_TIME_S.
Otherwise the last target is held, and the action is refused once it is older than a period. Messages to the server are
delayed on the wire. All episodes take the modes of both levels.

A plan_lead also costs something without a delay, since the plan is made for an older state: `rpl evaluate
models/relay --start perturbed --plan-lead 3` measures that. "waited" are the periods before the first action.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.table import Table

from benchmarks.common import Bundle, Json, circumstances, show, table, tracked
from rpl_runtime.client import Access, ReconnectConfig, on_robot_control
from rpl_runtime.evaluation.evaluate import FIRST_SEED
from rpl_runtime.files import JsonDict
from rpl_runtime.loop.clock import MonotonicClock, Schedule
from rpl_runtime.loop.realtime import StepThread
from rpl_runtime.robots.kitchen.task import KITCHEN
from rpl_runtime.robots.simulated import SimulatedRobot
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.tasks.kitchen.elements import EPISODE_STEPS, ROBOT_DIM

IN_TIME_S = 0.02  # [s] from an observation to an action that is still in time
ROBOT = "bench"


class Episode(NamedTuple):
    done: int  # elements of the goal ever done
    success: bool
    waited: int  # periods before the first action, whose plan cannot be made ahead
    held: int  # later periods without an action
    missed: int  # periods for which the simulator was too slow


def main(
    bundle: Bundle,
    goals: Annotated[str, typer.Option(help="Goals as in `rpl evaluate`: paper, mkbs, ...")] = "paper",
    limit: Annotated[int, typer.Option(min=1, help="Use only this many goals, the first.")] = 17,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes of each goal, from perturbed starts.")] = 3,
    leads: Annotated[str, typer.Option(help="plan_lead in control steps, separated by commas.")] = "0,3",
    delays: Annotated[str, typer.Option(help="Delays in milliseconds, separated by commas.")] = "0,200",
    as_json: Json = False,
) -> None:
    """Success of paced episodes at each plan_lead and delay."""
    tasks = [
        (elements, KITCHEN.episode_seed(FIRST_SEED, elements, episode))
        for _, elements in KITCHEN.parse_goals(goals)[:limit]
        for episode in range(episodes)
    ]
    conditions = [(int(lead), float(delay)) for delay in delays.split(",") for lead in leads.split(",")]
    rows = []
    with serve_in_process(bundle) as address, closing(SimulatedRobot(KITCHEN, "perturbed")) as robot:
        for lead, delay_ms in conditions:
            with delayed(address, delay_ms / 1e3) as far:
                what = f"lead {lead}, delay {delay_ms:g} ms"
                played = [play(robot, far, *task, lead) for task in tracked(tasks, what)]
            rows.append({"plan_lead": lead, "delay_ms": delay_ms} | summary(played))
    content = {"rows": rows, "in_time_s": IN_TIME_S, "goals": goals, **circumstances(("numpy", "grpcio", "mujoco"))}
    show(content, as_json, shown(rows))


def play(robot: SimulatedRobot, address: str, elements: tuple[str, ...], seed: int, lead: int) -> Episode:
    """Run one episode paced by the clock."""
    robot.reset(seed)
    control = on_robot_control(address, ReconnectConfig(waits=False, access=Access()))
    state = robot.observe()
    target, ever, waited, held, missed = state[:ROBOT_DIM], set[str](), 0, 0, 0
    with StepThread(control, ROBOT) as steps:
        control.start(ROBOT, elements, state, plan_lead=lead)
        schedule = Schedule(MonotonicClock(), control.model.spec.period_s)
        for _ in range(EPISODE_STEPS):
            missed += schedule.wait().missed
            action = steps.step(state, IN_TIME_S)
            if action is not None:
                target = action.target
            elif steps.number == 0:
                waited += 1
            else:
                held += 1
            robot.apply(target)
            ever |= robot.done()
            state = robot.observe()
    done = ever.intersection(elements)
    return Episode(len(done), len(done) == len(elements), waited, held, missed)


def summary(played: list[Episode]) -> JsonDict:
    return {
        "episodes": len(played),
        "success": float(np.mean([episode.success for episode in played])),
        "elements_done": float(np.mean([episode.done for episode in played])),
        "periods_waited": float(np.mean([episode.waited for episode in played])),
        "periods_held": float(np.mean([episode.held for episode in played])),
        "periods_missed": int(sum(episode.missed for episode in played)),
    }


def shown(rows: list[JsonDict]) -> Table:
    headings = ("delay", "plan_lead", "episodes", "success", "elements", "waited", f"held of {EPISODE_STEPS}", "missed")
    cells = [
        (
            f"{row['delay_ms']:g} ms",
            row["plan_lead"],
            row["episodes"],
            f"{row['success']:.1%}",
            f"{row['elements_done']:.2f}",
            f"{row['periods_waited']:.1f}",
            f"{row['periods_held']:.1f}",
            row["periods_missed"],
        )
        for row in rows
    ]
    return table("paced by the clock, low level beside the robot", headings, cells)


@contextmanager
def delayed(address: str, delay_s: float) -> Iterator[str]:
    """The address of a proxy that delays messages to a server, and not its replies."""
    ready: Future[tuple[str, Callable[[], object]]] = Future()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        with closing(writer):
            while data := await reader.read(1 << 16):
                loop.call_at(loop.time() + wait_s, writer.write, data)
            await asyncio.sleep(wait_s)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(*address.split(":"))
        with suppress(asyncio.CancelledError):  # at the end
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
