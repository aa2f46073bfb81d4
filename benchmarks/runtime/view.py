"""What a page costs: the server that is watched, the page itself, and how soon there is something to see.

    python -m benchmarks.runtime.view models/relay
    python -m benchmarks.runtime.view models/relay --setting 1,20 --output cost.json    # one of four: two minutes
    python -m benchmarks.runtime.view --from docs/data/cockpit/cost.json

Server, page and viewers run in processes of their own; a viewer is a web socket that takes all that the page sends, as
a browser does. Viewers stand for browsers on computers of their own, so here they give way to everything else. Robots
step at 50 Hz, without and with a page in turns; the figure is the ratio of the 99th percentiles of a served step, the
median of the pairs. A first picture is there when each viewer has got a robot's pose, counted from the start of the
page's process; the viewers' own process, like a browser, is there before. Exits with 1 if a requirement is missed.
"""

import asyncio
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
import viser
import zstandard
from rich.table import Table
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from benchmarks.common import PROGRESS, Given, Json, Saved, circumstances, cpu_s, obtained, show, table, verdict
from rpl_runtime.bench.peers.control import middle
from rpl_runtime.client import Access, Client
from rpl_runtime.files import JsonDict
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.process import CONTEXT, give_way, own_process
from rpl_runtime.server.subprocess import serve_in_process
from rpl_runtime.view.live import view_server

SETTINGS = ((1, 1), (8, 1), (1, 20), (8, 20))  # (robots, viewers)
PERIOD_S = 0.02  # [s] of the robots
UPDATES = {1: 25.0, 8: 10.0}  # robots -> updates per second that every viewer must get
SHARE, RATIO, FIRST_S = 0.2, 1.1, 5.0  # at most: of a core, of p99 without a page, [s] to the first picture


def main(
    bundle: Given = None,
    saved: Saved = None,
    setting: Annotated[list[str] | None, typer.Option(help="ROBOTS,VIEWERS; repeatable. By default all.")] = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="Duration of each run.")] = 10.0,
    pairs: Annotated[int, typer.Option(min=1, help="Runs without and with a page, of each setting.")] = 5,
    output: Annotated[Path | None, typer.Option(help="Write the JSON here, beside the settings that it has.")] = None,
    as_json: Json = False,
) -> None:
    """Measure what a page costs."""
    known = {f"{robots},{viewers}": (robots, viewers) for robots, viewers in SETTINGS}
    if unknown := set(setting or ()) - set(known):
        raise typer.BadParameter(f"--setting {', '.join(unknown)} is unknown; must be one of {' '.join(known)}")
    settings = [known[name] for name in setting or known]

    def beside(path: Path) -> JsonDict:
        with PROGRESS.status("measuring"):
            content = measure(path, settings, seconds, pairs)
        before = json.loads(output.read_text())["rows"] if output and output.exists() else []
        rows = {(row["robots"], row["viewers"]): row for row in [*before, *content["rows"]]}
        return content | {"rows": [rows[one] for one in SETTINGS if one in rows]}

    content = obtained(bundle, saved, beside, output)
    show(content, as_json, shown(content))
    raise typer.Exit(0 if all(row["met"] for row in content["rows"]) else 1)


def measure(path: Path, settings: Sequence[tuple[int, int]], seconds: float, pairs: int) -> JsonDict:
    with serve_in_process(path) as address:
        (server,) = multiprocessing.active_children()
        rows = [one_setting(path, address, server.pid, *setting, seconds, pairs) for setting in settings]
    return {
        "rows": rows,
        "bundle_digest": load_bundle(path).digest,
        **circumstances(("numpy", "grpcio", "viser", "mjviser")),
    }


def one_setting(
    path: Path, address: str, server: int | None, robots: int, viewers: int, seconds: float, pairs: int
) -> JsonDict:
    """The row of a number of robots and viewers."""
    figures = []
    for _ in range(pairs):
        idle_s = cpu_s(server)
        alone, spent_s = steps_us(path, address, robots, seconds)
        own_share = (cpu_s(server) - idle_s) / spent_s
        seen_by_all = threading.Event()
        warm = threading.Thread(target=steps_us, args=(path, address, robots, 2 * FIRST_S, seen_by_all))
        received, (here, there) = CONTEXT.Array("L", viewers), CONTEXT.Pipe()
        with own_process(watch, there, received):
            there.close()
            before_page = {child.pid for child in multiprocessing.active_children()}
            warm.start()
            began = perf_counter()
            with own_process(view_server, address, Access(), 0) as where:
                (page,) = {child.pid for child in multiprocessing.active_children()} - before_page
                here.send(where)
                first_s = here.recv() - began
                seen_by_all.set()
                warm.join()
                before = np.array([*received, cpu_s(server), cpu_s(page)])
                with_page, spent_s = steps_us(path, address, robots, seconds)
                rates = (np.array([*received, cpu_s(server), cpu_s(page)]) - before) / spent_s
        ratio, (*updates, server_share, page_share) = np.percentile(with_page, 99) / np.percentile(alone, 99), rates
        figures.append((ratio, min(updates), server_share - own_share, page_share, first_s))
    names = ("p99_ratio", "updates_per_s", "server_share", "page_share", "first_s")
    row = {"robots": robots, "viewers": viewers} | dict(zip(names, np.median(figures, axis=0).tolist(), strict=True))
    return row | {"met": met(row), "seconds": seconds, "pairs": pairs, "load": os.getloadavg()[0]}


def met(row: JsonDict) -> bool:
    few = row["viewers"] == 1
    return (
        row["p99_ratio"] <= RATIO
        and row["updates_per_s"] >= 0.95 * UPDATES[row["robots"]]
        and row["first_s"] <= FIRST_S
        and (not few or max(row["server_share"], row["page_share"]) <= SHARE)
    )


def steps_us(
    path: Path, address: str, robots: int, seconds: float, over: threading.Event = threading.Event()
) -> tuple[list[float], float]:
    """The time [us] of each step of robots, a stream each, and how long all took [s]; `over` ends them early."""
    spec = load_bundle(path).spec
    state, spent = middle(spec), list[float]()

    def run(number: int) -> None:
        robot, moved = f"robot-{number}", state.copy()
        with Client(address, access=Access()) as client, client.control() as control:
            control.start(robot, list(spec.elements)[:1], state)
            due = time.monotonic() + PERIOD_S * number / robots
            for step in range(round(seconds / PERIOD_S)):
                time.sleep(max(0.0, due - time.monotonic()))
                due += PERIOD_S
                moved[0] = state[0] + 0.1 * np.sin(0.1 * step)
                begun = perf_counter()
                control.step(robot, step, moved)
                spent.append((perf_counter() - begun) * 1e6)
                if over.is_set():
                    break

    threads = [threading.Thread(target=run, args=(number,)) for number in range(robots)]
    began = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return spent, perf_counter() - began


def watch(on_ready: Callable[[str], None], line: Connection, received: Any) -> None:
    """Count the messages that each viewer of a page gets.

    Args:
        line: says where the page is, and is told the time when all viewers have got a robot's pose.
    """

    async def view(page: str, number: int, waiting: set[int]) -> None:
        spoken = [Subprotocol(f"viser-v{viser.__version__}")]
        async with connect(page.replace("http", "ws"), subprotocols=spoken, max_size=None) as stream:
            async for message in stream:
                received[number] += 1
                if number in waiting and poses(message):
                    waiting.remove(number)
                    if not waiting:
                        line.send(perf_counter())

    async def crowd(page: str) -> None:
        waiting = set(range(len(received)))
        await asyncio.gather(*(view(page, number, waiting) for number in range(len(received))))

    give_way()
    on_ready("")
    asyncio.run(crowd(line.recv()))


def poses(message: Any) -> bool:
    """Whether a message of viser holds poses of a robot's ghost, of which there is an instance for each robot."""
    size = int.from_bytes(message[8:16], "little")
    content = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(message[16 : 16 + size]))
    return any(
        str(one.get("name")).startswith("/ghost/") and "batched_positions" in one.get("updates", {})
        for one in content["messages"]
    )


def shown(content: JsonDict) -> Table:
    rows = [
        [
            f"{row['robots']} and {row['viewers']}",
            f"{row['p99_ratio']:.2f}",
            f"{row['updates_per_s']:.1f}",
            f"{row['server_share']:.1%}",
            f"{row['page_share']:.1%}",
            f"{row['first_s']:.1f} s",
            verdict(row["met"]),
        ]
        for row in content["rows"]
    ]
    headings = ("robots, viewers", "p99", "updates/s", "server", "page", "first", "")
    shares = "shares of a core, the server's beyond what it needs anyway"
    caption = f"p99 of a step: with a page over without; {shares}; {content['machine']['cpus']} CPUs"
    return table("What a page costs", headings, rows, caption)


if __name__ == "__main__":
    typer.run(main)
