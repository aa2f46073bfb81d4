"""ZeroMQ: bare request and reply; a request holds the step's number and states, a reply the actions."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import zmq
from policy import Policy, Relay, states

from rpl_runtime.bench.load import Exchange, main


def serve(bundle: Path, on_ready: Callable[[str], None]) -> None:
    policy = Policy(bundle)
    relays: defaultdict[bytes, Relay] = defaultdict(lambda: Relay(policy))
    width = len(policy.spec["state"]["names"])
    socket = zmq.Context.instance().socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    on_ready(f"tcp://127.0.0.1:{port}")
    while True:
        who, empty, message = socket.recv_multipart()
        state = np.frombuffer(message, np.float32, offset=8).reshape(-1, width)
        action = relays[who].step(int.from_bytes(message[:8], "little"), state)
        socket.send_multipart([who, empty, action.tobytes()])


@contextmanager
def connect(address: str, bundle: Path, stream: str, batch: int) -> Iterator[Exchange]:
    state = states(bundle, batch)
    with zmq.Context.instance().socket(zmq.REQ) as socket:
        socket.connect(address)

        def exchange(step: int) -> np.ndarray:
            socket.send(step.to_bytes(8, "little") + state.tobytes())
            return np.frombuffer(socket.recv(), np.float32).reshape(batch, -1)

        yield exchange


if __name__ == "__main__":
    main(serve, connect)
