"""`rpl serve`: serve bundles until told to stop."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rpl_runtime.cli.options import ADDRESS
from rpl_runtime.telemetry.log_format import LogFormat, write_log

if TYPE_CHECKING:
    from rpl_runtime.auth.server import SecurityConfig
    from rpl_runtime.policy.bundle import Bundle


def serve_command(
    bundles: Annotated[
        list[Path],
        typer.Argument(metavar="BUNDLE...", help="Folders; the first is the default of calls without model."),
    ],
    address: Annotated[
        str,
        typer.Option(help="HOST:PORT to listen on, port 0 for a free one, or unix:PATH; see --tls-cert, --insecure."),
    ] = ADDRESS,
    tls_cert: Annotated[
        Path | None, typer.Option(envvar="RPL_SERVE_TLS_CERT", help="Speak TLS with this chain of certificates, PEM.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(envvar="RPL_SERVE_TLS_KEY", help="Its key, PEM; mode 640 or less.")
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(envvar="RPL_SERVE_CLIENT_CA", help="Turn away who has no certificate of these authorities, PEM."),
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(envvar="RPL_SERVE_TOKENS", help="Who may do what, as `rpl tokens new` writes it.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plain text for other machines, where the network itself is trusted.")
    ] = False,
    drain: Annotated[
        float, typer.Option(min=0.0, help="Seconds for which runs may go on after SIGTERM; a second signal ends them.")
    ] = 5.0,
    max_models: Annotated[
        int, typer.Option(min=1, help="Models held at once, those with them that runs began on before a swap.")
    ] = 8,
    max_robots: Annotated[int, typer.Option(min=1, help="Robots that run at once.")] = 1024,
    idle: Annotated[float, typer.Option(min=0.1, help="Seconds of silence after which a robot is free again.")] = 300.0,
    streams: Annotated[int, typer.Option(min=1, help="Control streams that one caller has at once.")] = 256,
    calls: Annotated[float, typer.Option(min=0.1, help="Calls a second of one caller, in bursts of 5 s.")] = 200.0,
    messages: Annotated[
        float, typer.Option(min=0.1, help="Messages a second of one caller, in bursts of 5 s; a robot sends 12.5.")
    ] = 20_000.0,
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve a page for Prometheus here, in plain text to all.")
    ] = None,
    traces: Annotated[
        str | None, typer.Option(metavar="URL", help="Send OpenTelemetry spans to the collector at http://HOST:PORT.")
    ] = None,
    log: Annotated[LogFormat, typer.Option(help="How runs, refusals and errors are logged, on standard error.")] = (
        LogFormat.TEXT
    ),
    reflection: Annotated[
        bool | None,
        typer.Option(help="Describe the service to grpcurl and its like; by default on this machine alone."),
    ] = None,
) -> None:
    """Serve bundles over gRPC until Ctrl-C or SIGTERM.

    On this machine alone, unless --address says otherwise; other machines are served over TLS, or with --insecure.
    Certificates and tokens are read again when their files change. docs/serving.md takes an operator through it.
    """
    # gRPC's own lines about a port that is taken would stand beside our sentence about it.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from rpl_runtime.auth.quotas import QuotaConfig
    from rpl_runtime.auth.server import SecurityConfig
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_runtime.server.server import ServerConfig, serve

    config = ServerConfig(
        address=address,
        drain_s=drain,
        security=SecurityConfig(tls_cert, tls_key, client_ca, tokens, insecure),
        quotas=QuotaConfig(streams, calls, messages),
        max_models=max_models,
        max_robots=max_robots,
        idle_s=idle,
        metrics=metrics,
        traces=traces,
        reflection=reflection,
    )
    loaded = [load_bundle(bundle) for bundle in bundles]
    write_log(log, sys.stderr)
    serve(loaded, config, on_ready=lambda bound: print_serving(loaded, bound, config.security))


def print_serving(bundles: "Sequence[Bundle]", address: str, security: "SecurityConfig") -> None:
    """One block that says what is served, where, to whom, and how to reach it."""
    spec = bundles[0].spec
    goal = ",".join(list(spec.elements)[:2])
    plain = security.tls_cert is None
    who = "whoever shows a token" if security.tokens else "whoever reaches it"
    if security.client_ca:
        who += " with a certificate of the client CA"
    rows = {
        "policy": f"{spec.name}  {spec.description}",
        "bundle": f"{bundles[0].digest[:12]}  {bundles[0].path}",
        "sizes": f"state {spec.state.dim}, action {spec.action.dim}, "
        f"a subgoal every {spec.horizon} steps of {spec.period_s:g} s",
        "goals": ", ".join(spec.elements) or "whole states",
        "also": ", ".join(f"{bundle.spec.name} {bundle.digest[:12]}" for bundle in bundles[1:]),
        "address": f"{address}  rpl.v1.RelayPolicy, {'plain text' if plain else 'TLS'}, to {who}",
        "kitchen": f'rpl run --robot kitchen --address {address} --goal "{goal}"',
        "python": f'rpl_runtime.client.Client("{address}")',
        "look": f"grpcurl -plaintext {address} describe rpl.v1.RelayPolicy" if plain else "",
        "stop": "Ctrl-C, or SIGTERM",
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        if value:
            table.add_row(f"[bold]{name}[/]", escape(value))
    Console(soft_wrap=True).print(table)
