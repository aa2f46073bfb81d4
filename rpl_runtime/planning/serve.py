"""Serve a planner of this process to others (planner.proto)."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

from rpl_runtime.auth.client import is_local
from rpl_runtime.errors import AddressInUse, InvalidInput, RelayError
from rpl_runtime.planning.planner import Planner
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.wire import planner as wire
from rpl_runtime.wire.control import status_of

_THREADS = 64  # questions that are answered at once


@contextmanager
def serve_planner(planner: Planner, name: str, spec: PolicySpec, address: str = "127.0.0.1:0") -> Iterator[str]:
    """Serve a planner to this machine in plain text, for the length of the block; its value is the address.

    Args:
        planner: answers the questions, several at once.
        name: of the planner, for people.
        spec: of the policy that it plans for.
        address: HOST:PORT of this machine, port 0 for a free one, or unix:PATH.

    Raises:
        InvalidInput: the address is one that other machines reach.
        AddressInUse: another program listens there.
    """
    if not is_local(address):
        raise InvalidInput(f"a planner would be served at {address} in plain text; must be an address of this machine")

    def answer(request: bytes) -> bytes:
        question, deadline_s = wire.unpack_question(request)
        spec.state.check("state", question.state)
        return wire.pack_plan(planner.plan(question, deadline_s))

    calls = {wire.CONTRACT: lambda request: wire.pack_contract(name, spec), wire.PLAN: answer}
    handlers = {
        path.rpartition("/")[2]: grpc.unary_unary_rpc_method_handler(_with_status(call)) for path, call in calls.items()
    }
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="rpl-planning")
    server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(wire.SERVICE, handlers),))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        raise AddressInUse(f"{address} cannot be listened on; another program may listen there") from None
    server.start()
    try:
        yield address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
    finally:
        server.stop(0).wait()
        threads.shutdown()


def _with_status(call: Callable[[bytes], bytes]) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    """A call whose errors become statuses."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return call(request)
        except RelayError as error:
            context.set_trailing_metadata((("rpl-reason", type(error).__name__),))
            context.abort(status_of(error), str(error))
            raise AssertionError("abort raises") from None

    return answer
