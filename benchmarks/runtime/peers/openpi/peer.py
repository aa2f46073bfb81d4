"""openpi-client: its own client and message format, against a server like openpi's with this policy.

The client is the published `WebsocketClientPolicy` of openpi-client. The server works like openpi's
`WebsocketPolicyServer` (Apache-2.0): metadata first, then an action for each observation, msgpack both ways.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import websockets
import websockets.asyncio.server
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from policy import Policy, Relay, states

from rpl_runtime.bench.load import Exchange, main


def serve(bundle: Path, on_ready: Callable[[str], None]) -> None:
    asyncio.run(_serve(Policy(bundle), on_ready))


@contextmanager
def connect(address: str, bundle: Path, stream: str, batch: int) -> Iterator[Exchange]:
    host, port = address.rsplit(":", 1)
    client = WebsocketClientPolicy(host, int(port))
    state = states(bundle, batch)
    yield lambda step: client.infer({"step": step, "state": state})
    client._ws.close()


async def _serve(policy: Policy, on_ready: Callable[[str], None]) -> None:
    async def handle(connection: websockets.asyncio.server.ServerConnection) -> None:
        relay, packer = Relay(policy), msgpack_numpy.Packer()
        await connection.send(packer.pack({}))
        async for message in connection:
            seen = msgpack_numpy.unpackb(message)
            await connection.send(packer.pack({"actions": relay.step(seen["step"], seen["state"])}))

    async with websockets.asyncio.server.serve(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
        [socket] = server.sockets
        on_ready(f"127.0.0.1:{socket.getsockname()[1]}")
        await server.serve_forever()


if __name__ == "__main__":
    main(serve, connect)
