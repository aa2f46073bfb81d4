"""What a robot's step takes of the processor beside the peers, at the server and at the driver, and of the time.

    python -m benchmarks.runtime.processor models/kitchen --peers benchmarks/runtime/peers

Servers and drivers are those of `rpl bench`, with many robots on a stream, and many streams of a robot each. The one of
the two processes that takes as much of the processor as time passes is what limits the load.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.common import PROGRESS, Bundle, Json, circumstances, cpu_s, show, table
from rpl_runtime.bench.load import Order
from rpl_runtime.bench.processes import Contestant, contest, folder_peers, own_peers
from rpl_runtime.files import JsonDict
from rpl_runtime.policy.bundle import load_bundle

LOADS = ((1, 8), (1, 64), (1, 256), (8, 1), (64, 1))  # (streams, robots on each)
PEERS = ("control", "openpi", "zeromq")
FIGURES = ("server_us", "driver_us", "wall_us")  # [us] for a robot's step


def main(
    bundle: Bundle,
    peers: Annotated[Path, typer.Option(help="Folder of the other peers.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of all robots together, in each run.")] = 20_000,
    turns: Annotated[int, typer.Option(min=1, help="Runs of each peer under each load, by turns.")] = 5,
    as_json: Json = False,
) -> None:
    """Measure what a step takes of the processor."""
    running = [peer for peer in (*own_peers(), *folder_peers(peers)) if peer.name in PEERS]
    rows: list[JsonDict] = []
    with PROGRESS.status("measuring"), contest(running, bundle) as contestants:
        for streams, batch in LOADS:
            each = max(1, steps // (streams * batch))
            order = Order(streams, batch, each, max(1, each // 10))
            found = np.array([[spent_us(one, order) for one in contestants] for _ in range(turns)])
            for one, medians in zip(contestants, np.median(found, axis=0).tolist(), strict=True):
                figures = dict(zip(FIGURES, medians, strict=True))
                rows.append({"peer": one.peer.what, "streams": streams, "robots": batch} | figures)
    digest = load_bundle(bundle).digest
    content = {"rows": rows, "steps": steps, "turns": turns, "bundle_digest": digest, **circumstances(("grpcio",))}
    shown = [
        (row["streams"], row["robots"], row["peer"], *(f"{row[figure]:.1f}" for figure in FIGURES)) for row in rows
    ]
    headings = ("streams", "robots on each", "peer", "server [us]", "driver [us]", "time [us]")
    show(content, as_json, table("The processor's time for a robot's step", headings, shown, f"median of {turns} runs"))


def spent_us(one: Contestant, order: Order) -> tuple[float, float, float]:
    """The processor's time [us] of server and driver for a robot's step of an order, and the time [us] that passed."""
    one.obey(order._replace(steps=1))  # opens the streams of this shape
    before = cpu_s(one.server), cpu_s(one.driver.pid)
    wall_s = one.obey(order).wall_s
    server_s, driver_s = np.subtract((cpu_s(one.server), cpu_s(one.driver.pid)), before)
    robots = order.streams * order.batch
    made = robots * (order.steps + order.warm_up)
    return server_s * 1e6 / made, driver_s * 1e6 / made, wall_s * 1e6 / (robots * order.steps)


if __name__ == "__main__":
    typer.run(main)
