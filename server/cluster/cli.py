"""`openset cluster`: replicas on a Ray cluster. Deploying asks the cluster's dashboard, and needs no Ray itself."""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from server.cluster.arguments import DASHBOARD
from server.cluster.deployment import APPLICATION, Replicas, serve_config
from server.cluster.ingress import node_variables
from server.installation import ROOT
from server.settings import Settings, SettingsError, read_settings

APPLICATIONS = "/api/serve/applications/"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_LOOK_EVERY_S = 0.5
_STAY_EVERY_S = 5.0
_STOP_S = 3  # of the ten seconds that Docker gives, beside the start and the end of the command
_RAY = (sys.executable, "-m", "ray.scripts.scripts")
# For the dashboard's answers, and for the dashboard of a cluster that has just been started.
_WITHIN_S = 60


class ClusterError(Exception):
    """A cluster that cannot be started, asked, or deployed to; the message says why."""


def run(args: argparse.Namespace) -> int:
    """The `cluster` command."""
    if args.action == "env":
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in node_variables().items()))
        return 0
    given = {name: value for name, value in vars(args).items() if name in Settings.model_fields}
    least, most = args.replicas
    shares = {"cpus": args.cpus, "gpus": args.gpus, "memory": args.memory}
    replicas = Replicas(least, most, **shares, surge=args.surge, route_prefix=args.route_prefix)
    try:
        settings = read_settings(args.config, **given)
        config = serve_config(settings, replicas)
        if args.action == "config":
            print(yaml.safe_dump(config, sort_keys=False), end="")
        else:
            up(config, address=args.address, block=args.block)
    except (SettingsError, ClusterError) as error:
        print(f"openset cluster: {error}", file=sys.stderr)
        return 2
    return 0


def up(config: dict[str, Any], *, address: str | None = None, block: bool = False) -> None:
    """Deploy `config` on the cluster of the dashboard at `address`, or on a new one, and wait until it answers.

    block: stay until SIGTERM, SIGINT or the cluster's end, and end it then, as where it cannot be deployed.
    """
    if address is not None and not address.startswith(("http://", "https://")):
        raise ClusterError(f"--address {address!r} is no address like {DASHBOARD}")
    if address is None:
        start_head(config["http_options"]["host"])
    if not block:
        _deploy(config, address)
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _deploy(config, address, stay=True)
    except KeyboardInterrupt:
        print("openset cluster: Ray is stopping", file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)
        words = [*_RAY, "stop", "--grace-period", str(_STOP_S)]
        subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _deploy(config: dict[str, Any], address: str | None, *, stay: bool = False) -> None:
    head = {"Authorization": f"Bearer {token}"} if (token := auth_token()) else {}
    with httpx.Client(base_url=address or DASHBOARD, headers=head, timeout=_WITHIN_S, trust_env=False) as dashboard:
        try:
            _reject_others(_status(dashboard))
            answer = dashboard.put(APPLICATIONS, json=config)
            if answer.is_error:
                raise ClusterError(f"the cluster refuses the deployment: {answer.text.strip()}")
            await_running(dashboard)
            options, prefix = config["http_options"], config["applications"][0]["route_prefix"]
            where = f"port {options['port']} of {options['host']}, path {prefix}"
            print(f"ready: every node answers at {where}", file=sys.stderr)
            while stay:
                time.sleep(_STAY_EVERY_S)
                _status(dashboard)  # ClusterError, or httpx's, where the cluster has ended
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ClusterError(f"no Ray dashboard answers at {dashboard.base_url}: {error}") from None
        finally:
            if address is None and not stay:
                print(f"`ray stop` ends the cluster, `--address {DASHBOARD}` deploys on it", file=sys.stderr)


def start_head(host: str) -> None:
    """Start Ray on this machine, on loopback only where `host` is, and for holders of its token alone.

    A token is made where there is none; RAY_AUTH_MODE says otherwise.
    """
    # This installation, also where it is a checkout, for the replicas.
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {"RAY_AUTH_MODE": "token"} | os.environ | node_variables() | {"PYTHONPATH": path}
    if environment["RAY_AUTH_MODE"] == "token" and not auth_token():
        _ray("get-auth-token", "--generate", environment=environment, hint="RAY_AUTH_TOKEN, or a HOME for it, helps")
    # The dashboard, where code can be run, is on loopback always.
    local = ["--node-ip-address", "127.0.0.1"] if host in _LOOPBACK else []
    hint = "`ray stop` ends a cluster of this machine"
    _ray("start", "--head", "--dashboard-host", "127.0.0.1", *local, environment=environment, hint=hint)


def _ray(*words: str, environment: Mapping[str, str], hint: str) -> None:
    done = subprocess.run([*_RAY, *words], env=environment, capture_output=True)
    if done.returncode:
        told = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines() or [""]
        raise ClusterError(f"Ray cannot be started: {told[-1]} ({hint})")


def auth_token() -> str:
    """Ray's token, from where its own commands read it: the environment, the file it names, or ~/.ray; else empty."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray/auth_token")
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def await_running(dashboard: httpx.Client) -> None:
    """Wait until the replicas are loaded and warm, and print what Ray says meanwhile; ClusterError where one fails."""
    told, well = "", time.monotonic()
    while True:
        application = _status(dashboard).get(APPLICATION, {})
        if application.get("status") == "RUNNING":
            return
        if application.get("status") != "UNHEALTHY":  # which passes, as where a replica has just been lost
            well = time.monotonic()
        if application.get("status") == "DEPLOY_FAILED" or time.monotonic() - well > _WITHIN_S:
            reason = application.get("message", "").strip() or "no reason is told"
            raise ClusterError(f"the deployment failed: {reason.splitlines()[-1]} (`serve status` prints all of it)")
        for deployment in application.get("deployments", {}).values():
            if deployment.get("message", "") not in ("", told):  # as where no node has room
                told = deployment["message"]
                print(f"openset cluster: {told.strip()}", file=sys.stderr)
        time.sleep(_LOOK_EVERY_S)


def _status(dashboard: httpx.Client) -> dict[str, Any]:
    """The applications of the cluster, by name; a dashboard that has just started may not answer yet."""
    give_up = time.monotonic() + _WITHIN_S
    while True:
        try:
            answer = dashboard.get(APPLICATIONS)
            if answer.status_code < 500 or time.monotonic() > give_up:
                break
        except httpx.TransportError:
            if time.monotonic() > give_up:
                raise
        time.sleep(_LOOK_EVERY_S)
    if answer.is_error:
        raise ClusterError(f"the cluster does not tell what it serves: {answer.text.strip()}")
    applications: dict[str, Any] = answer.json().get("applications", {})
    return applications


def _reject_others(applications: dict[str, Any]) -> None:
    """ClusterError where the cluster serves something else, which the deployment would end."""
    if others := sorted(set(applications) - {APPLICATION}):
        raise ClusterError(
            f"the cluster also serves {', '.join(others)}, which this would end: add what `openset cluster config`"
            " prints to its file, and deploy that with `serve deploy`"
        )
