"""Operator settings: the flags of `openset serve`, before `OPENSET_*` variables, before a TOML file.

`python -m server.settings` prints all of them as a Markdown table.
"""

import argparse
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from server.contract import heic
from server.contract.regular_files import read_regular
from server.installation import install_command
from server.memory.process_resources import available_cpus, machine_bytes, memory_limit

PREFIX = "OPENSET_"
CONFIG = PREFIX + "CONFIG"
MEBIBYTE = 2**20
MAX_ITEMS = 100_000  # of any list in a request, to bound the work of parsing; the settings are checked later
# Endpoints that run no model, and may be opened to clients without an API key; / includes the page's own files.
OpenEndpoint = Literal[
    "/",
    "/livez",
    "/readyz",
    "/metrics",
    "/models",
    "/docs",
    "/openapi.json",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
]
OPEN_ENDPOINTS = get_args(OpenEndpoint)
# Variables that are no settings: of the client and of compose.yaml, and those that Kubernetes makes of Services.
_OTHER_VARIABLES = re.compile(
    PREFIX + r"(CONFIG|API_KEY|BUNDLES|CHECKPOINTS|REFERENCE|(\w+_)?SERVICE_(HOST|PORT\w*)|(\w+_)?PORT_\w+|\w+_PORT)"
)
ImageFormat = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIC"]
_ORIGIN = re.compile(r"\*|https?://[\w.-]+(:\d+)?|https?://\[[0-9a-f:]+\](:\d+)?", re.IGNORECASE)


class SettingsError(ValueError):
    """A setting that cannot be used; the message names it, its value and what is accepted."""


def _split_words(value: object) -> object:
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return value
    return [word.strip() for part in parts for word in part.split(",") if word.strip()]


def _split_formats(value: object) -> object:
    words = _split_words(value)
    return [word.upper() for word in words] if isinstance(words, list) else words


def _split_paths(value: object) -> object:
    return [path for path in value.split(os.pathsep) if path] if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_split_words)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(_split_paths)]


class Settings(BaseModel):
    """Every setting: its default, its bounds, its purpose and when to change it."""

    # The string below a field is its description, in `--help`, error messages and the table of settings.
    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True, use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 accepts requests from other machines."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 picks a free one."""
    api_keys_file: Path | None = None
    """File of API keys, one line each as `openset key new` prints it; a key counts while its line is there. None:
    requests need no key."""
    open_endpoints: Annotated[tuple[OpenEndpoint, ...], BeforeValidator(_split_words)] = (
        *("/", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready"),
    )
    """Endpoints that need no API key, separated by commas. Add /metrics where the scraper sends no key. The page at /
    asks its visitor for a key; without / in this list no browser can open it."""
    page: bool = True
    """Serve the page at /, which tries the models in a browser; off: / is a 404."""
    cors_origins: Words = ()
    """Origins of web pages that may call this server, like https://app.example, separated by commas; or *."""
    trusted_proxies: Words = ()
    """Addresses or networks of reverse proxies whose X-Forwarded-For is trusted, separated by commas. Set it behind a
    proxy: clients without a key are told apart by address."""
    bundle: Paths = ()
    """Bundle folder to serve, repeatable (in the environment: separated like PATH); without it and `model`, the bundles
    that ship with the server."""
    model: Words = ()
    """Model to serve, by its name as `openset models` lists it or as a repository org/name, repeatable (in the
    environment: separated by commas); what does not ship with the server is downloaded at first use."""
    cache_dir: Path | None = None
    """Folder of pulled models; none: `openset` in the user's cache folder. Point it to a volume in a container."""
    bundle_roots: Paths = ()
    """Folders from which admin keys may add bundles to the running server (`openset bundles`), separated like PATH;
    none: the bundles served cannot be changed. Needs `api_keys_file`."""
    trial_timeout_s: int = Field(600, ge=1)
    """Seconds in which a bundle to be added must open and run once, in a process of its own; raise for large models on
    slow machines."""
    allow_uncertified: bool = False
    """Serve artefacts without a valid certificate; only to try out an export."""
    warm_up: Literal["auto", "largest", "none"] = "auto"
    """Model runs of each bundle before the server is ready. largest: one image and prompt at their largest, which also
    measures memory; auto: the same, and on a GPU, where the first run of a shape is slow, every shape bucket too; none:
    start sooner, with memory estimated."""
    threads: int = Field(0, ge=0, le=1024)
    """CPU threads of a model run; 0: as many as CPU affinity and cgroup quota allow."""
    decode_threads: int = Field(0, ge=0, le=1024)
    """Images that are decoded and preprocessed at once, each in a process of its own; 0: as many as CPU affinity and
    cgroup quota allow."""
    max_queue: int = Field(64, ge=1)
    """Images queued per bundle before 429; raise for bursts, lower for latency and memory."""
    max_batch: int = Field(8, ge=1)
    """Largest batch of a model run (a bundle may set a lower one); lower where memory is short. Images run one by one
    where together has been no faster for each."""
    max_wait_ms: float = Field(0, ge=0, le=1000)
    """Time a batch waits for more images; raise for throughput on a loaded GPU."""
    max_inflight_requests: int = Field(128, ge=1)
    """Concurrent requests before 429; one client leaves an eighth of them to others."""
    max_images: int = Field(16, ge=1, le=MAX_ITEMS)
    """Images per request."""
    max_labels: int = Field(1000, ge=1, le=MAX_ITEMS)
    """Texts per request: labels (times templates in /classify), or texts in /similarity."""
    max_passes: int = Field(16, ge=1, le=1000)
    """Detector runs per image for labels that exceed the model's token limit; raise for vocabularies of hundreds of
    labels. Each pass costs a run of all but the image encoder; 1 refuses such requests."""
    max_body_bytes: int = Field(32 * MEBIBYTE, ge=1024)
    """Bytes of a request body."""
    max_jobs: int = Field(64, ge=0)
    """Jobs that are held, those whose answers wait to be fetched among them; one client leaves a quarter to others. 0:
    no jobs, as several servers behind one address need, each of which knows its own alone."""
    job_bytes: int = Field(128 * MEBIBYTE, ge=1024)
    """Memory for the images and answers of jobs; raise for larger batches."""
    job_keep_s: int = Field(3600, ge=1)
    """Seconds for which the answer of a job is kept."""
    max_image_pixels: int = Field(50_000_000, ge=1, le=178_000_000)
    """Pixels of an image, checked before it is decoded. Decoding may take ten bytes of memory for each; lower it where
    memory is short."""
    image_formats: Annotated[tuple[ImageFormat, ...], BeforeValidator(_split_formats)] = get_args(ImageFormat)[:-2]
    """Picture formats that are read, separated by commas; AVIF may be added, and with the extra `heic` HEIC."""
    url_images: bool = False
    """Download images from https URLs in requests. Clients can then make this server send requests, to public addresses
    only."""
    url_max_bytes: int = Field(16 * MEBIBYTE, ge=1024)
    """Bytes of an image downloaded from a URL."""
    url_timeout_s: float = Field(10, gt=0, le=300)
    """Seconds for the download of an image, redirects included."""
    shutdown_timeout_s: int = Field(30, ge=0)
    """Seconds for accepted requests to finish at shutdown; those left are answered with 503."""
    prompt_cache_bytes: int = Field(64 * MEBIBYTE, ge=0)
    """Memory of the cache of text features, by label and prompt; 0: no cache."""
    pool_bytes: int = Field(0, ge=0)
    """Memory of the buffer pool in which batches are assembled, shared by all bundles; 0: twice the largest batch of
    each. Lower where memory is short: batches are then split."""
    memory_limit_bytes: int = Field(0, ge=0)
    """Memory budget of the process: bundles that would exceed it are refused at start; 0: the cgroup's limit, or none.
    With `warm_up` none, activations are not counted."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda:[0-9]{1,2})$")
    """Device that runs the models: cpu; cuda:N, refused at start where it does not work; auto, the first GPU with a
    working runtime, else the CPU."""
    gpu_memory_bytes: int = Field(0, ge=0)
    """GPU memory budget for weights, activations and buffers: bundles that would exceed it are refused at start; 0: the
    memory that is free at start. Lower it where the GPU is shared."""
    otlp_endpoint: str | None = None
    """OpenTelemetry collector for traces over OTLP/HTTP, like http://localhost:4318; none: no tracing.
    OTEL_TRACES_SAMPLER chooses the requests. Needs the extra `otel`."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged: debug, info, warning or error."""
    log_format: Literal["text", "json"] = "text"
    """Format of log lines: text, or json for a collector."""
    log_inputs: bool = False
    """Log paths, prompts, labels and image URLs of requests; off: nothing that clients send is logged."""

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin: give scheme and host, like https://app.example, or *")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in value:
            ipaddress.ip_network(proxy)  # its ValueError says what is wrong
        return value

    @field_validator("image_formats")
    @classmethod
    def _check_formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from PIL import features  # here: `openset serve --help` needs no extra

        if "AVIF" in value and not features.check("avif"):
            raise ValueError("this machine's build of Pillow cannot read AVIF")
        if "HEIC" in value and not heic.is_installed():
            raise ValueError(f"the extra heic is needed for HEIC: {install_command(('cpu', 'heic'))}")
        return value

    @field_validator("bundle_roots")
    @classmethod
    def _resolve_roots(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in value:
            if not root.is_dir():
                raise ValueError(f"{root} is not a folder")
        return tuple(root.resolve() for root in value)

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_collector(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "http://none")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("this is no address like http://localhost:4318")
        if "@" in parts.netloc:
            raise ValueError("credentials go into OTEL_EXPORTER_OTLP_HEADERS, not into the address")
        return value

    @model_validator(mode="after")
    def _check_combinations(self) -> "Settings":
        if self.bundle_roots and self.api_keys_file is None:
            raise ValueError(
                "bundle_roots without api_keys_file: anyone who reaches the server could change what it serves; make a"
                " key with `openset key new --admin`"
            )
        if self.max_images > self.max_queue:
            raise ValueError(
                f"max_images={self.max_images} with max_queue={self.max_queue}: a request of {self.max_images} images"
                " could never be accepted; max_queue must be at least max_images"
            )
        return self

    @property
    def run_threads(self) -> int:
        """Threads of each model run, with 0 resolved."""
        return self.threads or available_cpus()

    @cached_property
    def body_bytes(self) -> int:
        """Bytes that bodies and answers in progress may take: an eighth of the memory, and at least four bodies."""
        memory = self.memory_limit_bytes or memory_limit() or machine_bytes()
        return max(4 * self.max_body_bytes, memory // 8)

    @property
    def pool_threads(self) -> int:
        """Threads that decode and preprocess, with 0 resolved."""
        return self.decode_threads or available_cpus()


class _Given(NamedTuple):
    """A value and its place, for messages."""

    place: str
    value: Any


def readable_formats() -> tuple[str, ...]:
    """All picture formats that this installation can read."""
    from PIL import features

    missing = {"AVIF": not features.check("avif"), "HEIC": not heic.is_installed()}
    return tuple(name for name in get_args(ImageFormat) if not missing.get(name))


def read_settings(config: Path | None = None, *, defaults: Mapping[str, Any] | None = None, **flags: Any) -> Settings:
    """The settings from `flags`, the environment and the file `config` (by default the one OPENSET_CONFIG names).

    `defaults` stand in place of the settings' own. SettingsError names each unknown flag or line of the file, and each
    wrong value, with its place.
    """
    environment = {name.upper(): value for name, value in os.environ.items() if name.upper().startswith(PREFIX)}
    config = config or (Path(environment[CONFIG]) if environment.get(CONFIG) else None)
    file = _read_toml(config) if config else {}
    given = {name: _Given(name, value) for name, value in (defaults or {}).items()}
    given |= {name: _Given(f"{config}: {name}", value) for name, value in file.items()}
    for variable, value in environment.items():
        name = variable.removeprefix(PREFIX).lower()
        if name in Settings.model_fields and not _is_of_a_service(variable, value):
            given[name] = _Given(variable, value)
    given |= {name: _Given(_flag(name), value) for name, value in flags.items()}
    try:
        return Settings(**{name: value for name, (_, value) in given.items()})
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(fault, given) for fault in error.errors())) from None


def odd_variables() -> list[str]:
    """A sentence for each `OPENSET_*` variable that sets nothing, with the setting that was probably meant.

    Only a warning: whoever starts a process does not always choose its environment.
    """
    found = []
    for variable, value in sorted((name.upper(), value) for name, value in os.environ.items()):
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX):
            continue
        if _is_of_a_service(variable, value):
            found.append(
                f"{variable}={value} is Kubernetes' variable of a Service, not a setting, and is ignored: set"
                " enableServiceLinks: false in the pod, or name the Service otherwise; --port sets the port"
            )
        elif name not in Settings.model_fields and not _OTHER_VARIABLES.fullmatch(variable):
            near = get_close_matches(name, Settings.model_fields, n=1)
            found.append(f"{variable} names no setting" + (f"; {PREFIX}{near[0].upper()} does" if near else ""))
    return found


def _is_of_a_service(variable: str, value: str) -> bool:
    """True for the variable that Kubernetes makes of a Service called openset, which has the name of a setting."""
    return variable == PREFIX + "PORT" and re.match(r"(tcp|udp|sctp)://", value) is not None


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and one flag for each setting; a flag that is not given leaves no attribute."""
    parser.add_argument("--config", type=Path, metavar="PATH", help="TOML file of settings, by the names of the flags")
    for name, field in Settings.model_fields.items():
        options: dict[str, Any] = {"help": f"{_description(name)} [{_shown_default(field.default)}]"}
        if isinstance(field.default, bool):
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = _METAVARS.get(field.annotation, "TEXT")
            options["action"] = "append" if isinstance(field.default, tuple) else "store"
        parser.add_argument(_flag(name), default=argparse.SUPPRESS, **options)


def markdown_table() -> str:
    """The settings as a Markdown table."""
    rows = [
        f"| `{name}` | {_shown_default(field.default)} | {_description(name)} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| setting | default | purpose, and when to change it |", "| --- | --- | --- |", *rows])


_METAVARS: Mapping[object, str] = {
    int: "INTEGER",
    float: "NUMBER",
    Path | None: "PATH",
    tuple[Path, ...]: "PATH",
    tuple[str, ...]: "TEXT,…",
    tuple[OpenEndpoint, ...]: "TEXT,…",
    tuple[ImageFormat, ...]: "TEXT,…",
}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_regular(path, most=MEBIBYTE).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"the settings file {path} cannot be read: {reason}") from None
    except (ValueError, RecursionError) as error:  # also a number of too many digits, and brackets nested too deeply
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from None


def _description(name: str) -> str:
    return " ".join((Settings.model_fields[name].description or "").split())


def _shown_default(default: object) -> str:
    if default is None or default == ():
        return "none"
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _explain(fault: Any, given: Mapping[str, _Given]) -> str:
    reason = str(fault["msg"]).removeprefix("Value error, ")
    if not fault["loc"]:
        return reason
    name = str(fault["loc"][0])
    place, value = given[name]
    if name not in Settings.model_fields:
        return f"{place}: there is no setting {name!r}; the settings are {', '.join(Settings.model_fields)}"
    return f"{place}={value!r} is refused: {reason[0].lower()}{reason[1:]}. {_description(name)}"


if __name__ == "__main__":
    print(markdown_table())
