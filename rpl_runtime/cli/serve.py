"""`rpl serve`: serve bundles until Ctrl-C or SIGTERM."""

import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from rpl_runtime.cli.options import ADDRESS, Providers, access_of
from rpl_runtime.console import Console
from rpl_runtime.telemetry.log_format import LogFormat, write_log

if TYPE_CHECKING:
    from rpl_runtime.auth.server import SecurityConfig
    from rpl_runtime.policy.bundle import Bundle


def serve_command(
    context: typer.Context,
    bundles: Annotated[
        list[Path],
        typer.Argument(metavar="BUNDLE...", help="Bundles' folders; the first is the default of calls without model."),
    ],
    address: Annotated[
        str,
        typer.Option(help="HOST:PORT to listen on, port 0 for a free one, or unix:PATH; see --tls-cert, --insecure."),
    ] = ADDRESS,
    tls_cert: Annotated[
        Path | None, typer.Option(envvar="RPL_SERVE_TLS_CERT", help="Use TLS with this certificate chain, PEM.")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(envvar="RPL_SERVE_TLS_KEY", help="The key of the certificate, PEM; mode 640 or less.")
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(envvar="RPL_SERVE_CLIENT_CA", help="Require client certificates of these authorities, PEM."),
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(envvar="RPL_SERVE_TOKENS", help="Require tokens of this file of `rpl tokens new`.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve other machines in plain text, on a network that you trust.")
    ] = False,
    drain: Annotated[
        float, typer.Option(min=0.0, help="Seconds for runs to finish after SIGTERM; a second signal ends them.")
    ] = 5.0,
    max_models: Annotated[
        int, typer.Option(min=1, help="Most models in memory, including replaced ones still in use.")
    ] = 8,
    max_robots: Annotated[int, typer.Option(min=1, help="Most robots that run at once.")] = 1024,
    idle: Annotated[float, typer.Option(min=0.1, help="Seconds of silence after which a robot is released.")] = 300.0,
    streams: Annotated[int, typer.Option(min=1, help="Most open control streams of one caller.")] = 256,
    robots: Annotated[int, typer.Option(min=1, help="Most robots of one caller that run at once.")] = 256,
    calls: Annotated[float, typer.Option(min=0.1, help="Calls per second of one caller, in bursts of 5 s.")] = 200.0,
    rows: Annotated[
        float, typer.Option(min=0.1, help="Rows per second of one caller, in bursts of 5 s; a robot sends 12.5.")
    ] = 500_000.0,
    megabytes: Annotated[
        float, typer.Option(min=0.1, help="Megabytes per second of one caller, in bursts of 5 s.")
    ] = 100.0,
    time_share: Annotated[
        float,
        typer.Option(min=0.01, max=1.0, help="Share of the server's time of one caller while others need it too."),
    ] = 0.4,
    providers: Providers = "CPU",
    planner: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Ask this rpl.v1.Planner for subgoals in place of the bundles' high levels; no robot waits for it.",
        ),
    ] = None,
    planner_deadline: Annotated[
        float, typer.Option(min=0.001, max=60.0, help="Seconds that a plan may take, if the run names no other time.")
    ] = 2.0,
    planner_fallback: Annotated[
        Literal["keep", "hold", "bundle", "stop"],
        typer.Option(
            help="When no plan came in time: keep the old subgoal, hold the robot's state, let the bundle plan, or "
            "stop the run; a run may name another."
        ),
    ] = "keep",
    high_level: Annotated[
        Literal["auto", "step", "thread"],
        typer.Option(help="Run the bundles' high levels within a step, or in a thread; auto: in a thread above 5 ms."),
    ] = "auto",
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve Prometheus metrics here, in plain text, to anyone.")
    ] = None,
    traces: Annotated[
        str | None, typer.Option(metavar="URL", help="Send OpenTelemetry spans to the collector at http://HOST:PORT.")
    ] = None,
    log: Annotated[LogFormat, typer.Option(help="Format of the log of runs, refusals and errors on stderr.")] = (
        LogFormat.TEXT
    ),
    reflection: Annotated[
        bool,
        typer.Option("--reflection", help="Describe the service to tools such as grpcurl, also to other machines."),
    ] = False,
    no_reflection: Annotated[
        bool, typer.Option("--no-reflection", help="Describe it to nobody; default: only to this machine.")
    ] = False,
) -> None:
    """Serve bundles over gRPC until Ctrl-C or SIGTERM.

    By default only this machine can reach the server; --address opens it to others, over TLS or with --insecure.
    Certificates and tokens are reloaded when their files change. `rpl docs serving` is the operator's guide.

    Example: rpl serve models/kitchen --address 127.0.0.1:50051
    """
    from rpl_runtime.auth.quotas import QuotaConfig
    from rpl_runtime.auth.server import SecurityConfig
    from rpl_runtime.planning.planning import PlanningConfig, Where
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_runtime.relay.plans import Fallback
    from rpl_runtime.server.server import ServerConfig, serve

    if len(bundles) > max_models:
        raise typer.BadParameter(f"{len(bundles)} bundles are more than --max-models {max_models}")
    if reflection and no_reflection:
        raise typer.BadParameter("give --reflection or --no-reflection, not both")
    security = SecurityConfig(tls_cert, tls_key, client_ca, tokens, insecure)
    config = ServerConfig(
        address=address,
        drain_s=drain,
        security=security,
        quotas=QuotaConfig(streams, robots, calls, rows, megabytes * 1e6, time_share=time_share),
        max_models=max_models,
        max_robots=max_robots,
        idle_s=idle,
        providers=providers,
        metrics=metrics,
        traces=traces,
        reflection=not no_reflection if reflection or no_reflection else None,
        planning=PlanningConfig(
            planner, planner_deadline, Fallback(planner_fallback), Where(high_level), access_of(context)
        ),
    )
    loaded = [load_bundle(bundle) for bundle in bundles]
    write_log(log, sys.stderr)
    serve(loaded, config, on_ready=lambda bound: print_serving(loaded, bound, security, planner))


def print_serving(
    bundles: "Sequence[Bundle]", address: str, security: "SecurityConfig", planner: str | None = None
) -> None:
    """Print what is served, where, to whom, and how to use it."""
    from rpl_runtime.tasks.load import DEFAULT, load_task

    first, spec = bundles[0], bundles[0].spec
    protocol = "TLS" if security.tls_cert else "plain text"
    need = "a token" if security.tokens else "no token"
    need += " and a certificate of the client CA" if security.client_ca else ""
    run = [f'rpl run --address {address} --goal "{",".join(list(spec.elements)[:2])}"']
    access = ["--ca CA.pem"] * bool(security.tls_cert) + ["--token-file TOKEN"] * bool(security.tokens)
    access += ["--cert CERT.pem --key KEY.pem"] * bool(security.client_ca)
    client = [f'rpl_runtime.client.Client("{address}"']
    client += ["access=rpl_runtime.client.Access.from_environment()"] if access else []
    run += [" ".join(access)] if access else []
    rows = {
        "policy": f"{spec.name}  {spec.description}",
        "bundle": f"{first.digest[:12]}  {first.path}",
        "sizes": f"state {spec.state.dim}, action {spec.action.dim}, "
        f"a subgoal every {spec.horizon} control steps of {spec.period_s:g} s",
        "goals": ", ".join(spec.elements) or "whole states",
        "also": ", ".join(f"{bundle.spec.name} {bundle.digest[:12]}" for bundle in bundles[1:]),
        "planner": planner or "",
        "address": f"{address}  rpl.v1.RelayPolicy over {protocol}; callers need {need}",
        "kitchen": " \\\n".join(run) if spec.state.names == load_task(DEFAULT).spec.state.names else "",
        "python": ", \n".join(client) + ")",
        "look": "" if security.tls_cert else f"grpcurl -plaintext {address} describe rpl.v1.RelayPolicy",
        "stop": "Ctrl-C, or SIGTERM",
    }
    code = {"kitchen", "python", "look"}  # to be copied, so broken only where it is read as one line
    console = Console(soft_wrap=True, highlight=False)
    for name, value in rows.items():
        if value:
            text = value if name in code else fill(value, console.width - 9, break_long_words=False)
            console.print(f"[bold]{name:8}[/]", escape(text.replace("\n", "\n" + 9 * " ")))
