"""The 3D part of a page, by what its server holds for every viewer."""

from collections.abc import Sequence

import numpy as np

from extras import needs
from rpl_runtime.tasks.load import load_task
from rpl_runtime.tasks.scenery import OPERATOR, POLICY, Poser, Scenery
from rpl_runtime.view.gate import page_server
from rpl_runtime.view.stage import Actor, Stage

pytestmark = needs("view and sim extras", "viser", "mjviser", "gymnasium_robotics")

NO_TRAIL = np.zeros((0, 3))


def actors(scenery: Scenery, *turns: float, colour: tuple[int, int, int] = POLICY) -> list[Actor]:
    """Robots that differ by the angle [rad] of their first joint; their subgoals turn it by 0.2 more."""
    found = []
    for number, turn in enumerate(turns):
        state, subgoal = scenery.rest.copy(), scenery.rest.copy()
        state[0] += turn
        subgoal[0] += turn + 0.2
        found.append(Actor(f"robot-{number}", state, subgoal, colour, NO_TRAIL))
    return found


def check(stage: Stage, scenery: Scenery, shown: Sequence[Actor]) -> None:
    poses = Poser(scenery)
    for parts, states in (
        (stage._real, [actor.state for actor in shown]),
        (stage._ghosts, [actor.subgoal for actor in shown]),
    ):
        wanted = poses(states)
        places = wanted.positions + stage._offsets(len(shown))[:, None]
        for handle, body in parts.meshes:
            np.testing.assert_allclose(handle.batched_positions, places[:, body], atol=1e-6)
            np.testing.assert_allclose(handle.batched_wxyzs, wanted.turns[:, body], atol=1e-6)
    for handle, _ in stage._ghosts.meshes:
        assert handle.batched_colors.tolist() == [list(actor.colour) for actor in shown]


def test_every_body_is_drawn_where_it_is_after_any_change() -> None:
    scenery = load_task("kitchen").scenery()
    with page_server(0, "a page") as (server, _):
        stage = Stage(server, scenery)
        for shown in (
            actors(scenery, 0.0),
            actors(scenery, 0.3),
            actors(scenery, 0.3),  # at rest
            actors(scenery, 0.3, colour=OPERATOR),
            actors(scenery, 0.3, 0.1),  # one more
            actors(scenery, 0.3, 0.2),  # the second alone moves
            actors(scenery, 0.2),  # the second is the first now
            [],
            actors(scenery, 0.2),
        ):
            stage.show(shown)
            check(stage, scenery, shown)
