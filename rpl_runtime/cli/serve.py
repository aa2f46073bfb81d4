"""`rpl serve`: its options, in groups; the command; and what it prints once robots may start."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from rpl_runtime.cli.options import ADDRESS, LONGEST_S, Providers, access_of, grouped
from rpl_runtime.console import Console
from rpl_runtime.telemetry.log_format import LogFormat, write_log

if TYPE_CHECKING:
    from rpl_runtime.auth.client import Access
    from rpl_runtime.auth.quotas import QuotaConfig
    from rpl_runtime.auth.server import SecurityConfig
    from rpl_runtime.planning.planning import PlanningConfig
    from rpl_runtime.policy.bundle import Bundle
    from rpl_runtime.server.server import ServerConfig


@dataclass(frozen=True, kw_only=True)
class SecurityOptions:
    """Who may reach the server."""

    tls_cert: Annotated[
        Path | None, typer.Option(envvar="RPL_SERVE_TLS_CERT", help="Use TLS with this certificate chain, PEM.")
    ] = None
    tls_key: Annotated[
        Path | None, typer.Option(envvar="RPL_SERVE_TLS_KEY", help="The key of the certificate, PEM; mode 640 or less.")
    ] = None
    client_ca: Annotated[
        Path | None,
        typer.Option(envvar="RPL_SERVE_CLIENT_CA", help="Require client certificates of these authorities, PEM."),
    ] = None
    tokens: Annotated[
        Path | None, typer.Option(envvar="RPL_SERVE_TOKENS", help="Require tokens of this file of `rpl tokens new`.")
    ] = None
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve other machines in plain text, on a network that you trust.")
    ] = False

    def config(self) -> "SecurityConfig":
        """TLS and tokens of the server."""
        from rpl_runtime.auth.server import SecurityConfig

        return SecurityConfig(self.tls_cert, self.tls_key, self.client_ca, self.tokens, self.insecure)


@dataclass(frozen=True, kw_only=True)
class QuotaOptions:
    """How much one caller may ask for."""

    streams: Annotated[int, typer.Option(min=1, help="Most open control streams of one caller.")] = 256
    robots: Annotated[int, typer.Option(min=1, help="Most robots of one caller that run at once.")] = 256
    calls: Annotated[float, typer.Option(min=0.1, help="Calls per second of one caller, in bursts of 5 s.")] = 200.0
    rows: Annotated[
        float, typer.Option(min=0.1, help="Rows per second of one caller, in bursts of 5 s; a robot sends 12.5.")
    ] = 500_000.0
    megabytes: Annotated[float, typer.Option(min=0.1, help="Megabytes per second of one caller, in bursts of 5 s.")] = (
        100.0
    )
    time_share: Annotated[
        float,
        typer.Option(min=0.01, max=1.0, help="Share of the server's time of one caller while others need it too."),
    ] = 0.4

    def config(self) -> "QuotaConfig":
        """The quotas of each caller."""
        from rpl_runtime.auth.quotas import QuotaConfig

        most = self.streams, self.robots, self.calls, self.rows, self.megabytes * 1e6
        return QuotaConfig(*most, time_share=self.time_share)


@dataclass(frozen=True, kw_only=True)
class PlanningOptions:
    """Who sets the subgoals, and what happens when none came in time."""

    planner: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Ask this rpl.v1.Planner for subgoals in place of the bundles' high levels; no robot waits for it.",
        ),
    ] = None
    planner_deadline: Annotated[
        float, typer.Option(min=0.001, max=60.0, help="Seconds that a plan may take, if the run names no other time.")
    ] = 2.0
    planner_fallback: Annotated[
        Literal["keep", "hold", "bundle", "stop"],
        typer.Option(
            help="When no plan came in time: keep the old subgoal, hold the robot's state, let the bundle plan, or "
            "stop the run; a run may name another."
        ),
    ] = "keep"
    high_level: Annotated[
        Literal["auto", "step", "thread"],
        typer.Option(help="Run the bundles' high levels within a step, or in a thread; auto: in a thread above 5 ms."),
    ] = "auto"

    def config(self, access: "Access") -> "PlanningConfig":
        """The planner, which is reached with `access`, and the rules for runs that name none."""
        from rpl_runtime.planning.planning import PlanningConfig, Where
        from rpl_runtime.relay.plans import Fallback

        fallback, own = Fallback(self.planner_fallback), Where(self.high_level)
        return PlanningConfig(self.planner, self.planner_deadline, fallback, own, access)


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """All that `rpl serve` is asked for.

    Raises:
        BadParameter: options contradict each other.
    """

    bundles: Annotated[
        list[Path],
        typer.Argument(metavar="BUNDLE...", help="Bundles' folders; the first is the default of calls without model."),
    ]
    address: Annotated[
        str,
        typer.Option(help="HOST:PORT to listen on, port 0 for a free one, or unix:PATH; see --tls-cert, --insecure."),
    ] = ADDRESS
    security: SecurityOptions
    drain: Annotated[
        float,
        typer.Option(
            min=0.0, max=LONGEST_S, help="Seconds for runs to finish after SIGTERM; a second signal ends them."
        ),
    ] = 5.0
    max_models: Annotated[
        int, typer.Option(min=1, help="Most models in memory, including replaced ones still in use.")
    ] = 8
    max_robots: Annotated[int, typer.Option(min=1, help="Most robots that run at once.")] = 1024
    idle: Annotated[
        float, typer.Option(min=0.1, max=LONGEST_S, help="Seconds of silence after which a robot is released.")
    ] = 300.0
    quotas: QuotaOptions
    providers: Providers = "CPU"
    planning: PlanningOptions
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve Prometheus metrics here, in plain text, to anyone.")
    ] = None
    traces: Annotated[
        str | None, typer.Option(metavar="URL", help="Send OpenTelemetry spans to the collector at http://HOST:PORT.")
    ] = None
    log_format: Annotated[
        LogFormat, typer.Option(help="Of the log of runs, refusals and errors on standard error.")
    ] = LogFormat.TEXT
    reflection: Annotated[
        bool,
        typer.Option("--reflection", help="Describe the service to tools such as grpcurl, also to other machines."),
    ] = False
    no_reflection: Annotated[
        bool, typer.Option("--no-reflection", help="Describe it to nobody; default: only to this machine.")
    ] = False

    def __post_init__(self) -> None:
        if len(self.bundles) > self.max_models:
            raise typer.BadParameter(f"{len(self.bundles)} bundles are more than --max-models {self.max_models}")
        if self.reflection and self.no_reflection:
            raise typer.BadParameter("give --reflection or --no-reflection, not both")

    def config(self, context: typer.Context) -> "ServerConfig":
        """The server; a planner is reached as the context says."""
        from rpl_runtime.server.server import ServerConfig

        return ServerConfig(
            address=self.address,
            drain_s=self.drain,
            security=self.security.config(),
            quotas=self.quotas.config(),
            max_models=self.max_models,
            max_robots=self.max_robots,
            idle_s=self.idle,
            providers=self.providers,
            metrics=self.metrics,
            traces=self.traces,
            reflection=self.reflection if self.reflection or self.no_reflection else None,
            planning=self.planning.config(access_of(context)),
        )


@grouped
def serve_command(context: typer.Context, asked: ServeOptions) -> None:
    """Serve bundles over gRPC until Ctrl-C or SIGTERM.

    By default only this machine can reach the server; --address opens it to others, over TLS or with --insecure.
    Certificates and tokens are reloaded when their files change. `rpl docs serving` is the operator's guide.

    Example: rpl serve models/kitchen --address 127.0.0.1:50051
    """
    from rpl_runtime.policy.bundle import load_bundle
    from rpl_runtime.server.server import serve

    config, planner = asked.config(context), asked.planning.planner
    bundles = [load_bundle(bundle) for bundle in asked.bundles]
    write_log(asked.log_format, sys.stderr)
    serve(bundles, config, on_ready=lambda bound: print_serving(bundles, bound, config.security, planner))


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
