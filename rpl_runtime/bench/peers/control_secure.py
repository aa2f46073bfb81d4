"""This project as a peer as other machines would use it: TLS, a token and sampled actions. Needs openssl."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rpl_runtime.auth.client import Access
from rpl_runtime.auth.server import SecurityConfig
from rpl_runtime.auth.tokens import Right, add_grant, grant, new_token, write_private
from rpl_runtime.bench.load import Exchange, main
from rpl_runtime.bench.peers import control

_CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=bench "
    "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out certificate.pem"
)


def serve(path: Path, on_ready: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, token = Path(name), new_token()
        subprocess.run(_CERTIFICATE.split(), cwd=folder, check=True, capture_output=True)  # nosec B603 # no shell
        add_grant(folder / "grants", grant(token, "bench", [Right.ACT]))
        write_private(folder / "token", token)
        security = SecurityConfig(folder / "certificate.pem", folder / "key.pem", tokens=folder / "grants")
        control.serve(path, lambda address: on_ready(f"{address} {folder}"), security=security)


@contextmanager
def connect(address: str, path: Path, stream: str, batch: int) -> Iterator[Exchange]:
    address, _, folder = address.partition(" ")
    access = Access(ca=Path(folder) / "certificate.pem", token=(Path(folder) / "token").read_text())
    with control.connect(address, path, stream, batch, access, seed=0) as exchange:
        yield exchange


if __name__ == "__main__":
    main(serve, connect)
