"""What an operator can turn: read once, from the flags of `openset serve`, `OPENSET_*` variables and a TOML file."""

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from server.memory.process_resources import available_cpus
from server.schemas import MAX_ITEMS

PREFIX = "OPENSET_"
CONFIG = PREFIX + "CONFIG"
MEBIBYTE = 2**20
ImageFormat = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
# What may be asked for without an API key where the operator says so: all that does no work; / means its files too.
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
WarmUp = Literal["auto", "all", "largest", "none"]
# Settings that hold several words, in the environment and in one flag separated by commas.
_WORDS = ("image_formats", "open_endpoints", "cors_origins", "trusted_proxies", "model")
_ORIGIN = re.compile(r"\*|https?://[\w.-]+(:\d+)?|https?://\[[0-9a-f:]+\](:\d+)?", re.IGNORECASE)


class SettingsError(ValueError):
    """A setting that cannot be used; the message names it, its value and what is accepted."""


class Settings(BaseSettings):
    """Every setting, its default, and when to turn it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 to be reached from other machines.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_keys_file: Path | None = Field(
        None,
        description="File of API keys (`openset key new` prints its lines), read again when it changes; none: no key.",
    )
    open_endpoints: Annotated[tuple[OpenEndpoint, ...], NoDecode] = Field(
        ("/", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready"),
        description="What needs no API key, separated by commas: add /metrics where the scraper has none. The page at /"
        " asks for a key itself, and without / no browser can open it.",
    )
    page: bool = Field(True, description="Serve the page at / that tries the models in a browser; off, / is a 404.")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call this server, like https://app.example, separated by commas; or *."
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses or networks of proxies whose X-Forwarded-For is believed, separated by commas:"
        " clients without a key are told apart by address.",
    )
    bundle: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="Bundle folder to serve, repeatable (in the environment: separated like PATH);"
        " without any and without `model`, the bundles that ship with the server.",
    )
    model: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Official model to serve, by its name for `openset pull`, repeatable (in the environment: separated"
        " by commas); pulled at first use.",
    )
    cache_dir: Path | None = Field(
        None,
        description="Folder where pulled models are kept; none: `openset` in the user's cache folder. A container needs"
        " a volume for it.",
    )
    bundle_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="Folders from within which admin keys may add bundles while serving (`openset bundles`), separated"
        " like PATH; none: what is served stays as it is. Needs `api_keys_file`.",
    )
    allow_uncertified: bool = Field(
        False, description="Serve artefacts without a valid certificate; only to try out an export."
    )
    warm_up: WarmUp = Field(
        "auto",
        description="What each bundle runs before ready. largest: one image and prompt at their largest, which also"
        " measures its memory; all: every shape bucket, alone and in the largest batch; auto: all on a GPU, where the"
        " first run of a shape is slow, else largest; none: nothing, to start sooner.",
    )
    warm_up_s: float = Field(
        120, gt=0, description="Seconds for all shape buckets of a bundle; those left are logged, and met unprepared."
    )
    threads: int = Field(
        0, ge=0, le=1024, description="Threads of each model run; 0 takes what affinity and the cgroup quota allow."
    )
    decode_threads: int = Field(
        0, ge=0, le=1024, description="Threads that decode and preprocess images; 0 takes as many as `threads` would."
    )
    max_queue: int = Field(
        64, ge=1, description="Images waiting per bundle before 429; raise for bursts, lower for latency and memory."
    )
    max_batch: int = Field(
        8, ge=1, description="Images per model run (a bundle may ask for fewer); lower where memory is short."
    )
    max_wait_ms: float = Field(
        0, ge=0, le=1000, description="How long a waiting run may collect more images; raise on a GPU under load."
    )
    max_inflight_requests: int = Field(
        128, ge=1, description="Requests in progress before 429; times `max_body_bytes`, it bounds memory for bodies."
    )
    max_images: int = Field(16, ge=1, le=MAX_ITEMS, description="Images per request.")
    max_labels: int = Field(
        1000,
        ge=1,
        le=MAX_ITEMS,
        description="Texts per request: labels (times templates in /classify), or texts in /similarity.",
    )
    max_passes: int = Field(
        16,
        ge=1,
        le=1000,
        description="Passes of a detection whose labels take more tokens than the model reads at once; each costs a run"
        " of all but the image encoder. 1 refuses such requests.",
    )
    max_body_bytes: int = Field(32 * MEBIBYTE, ge=1024, description="Bytes of a request's body.")
    image_formats: Annotated[tuple[ImageFormat, ...], NoDecode] = Field(
        get_args(ImageFormat),
        min_length=1,
        description="Picture formats that are read, separated by commas; fewer expose fewer decoders.",
    )
    max_image_pixels: int = Field(
        50_000_000, ge=1, le=178_000_000, description="Pixels of an image, checked before it is decoded."
    )
    max_aspect_ratio: float = Field(
        100, ge=1, le=1000, description="Longer over shorter side of an image: a thin strip would be enlarged a lot."
    )
    url_images: bool = Field(
        False, description="Fetch images by https URLs that clients name; on, clients make this server send requests."
    )
    url_max_bytes: int = Field(16 * MEBIBYTE, ge=1024, description="Bytes of an image fetched from a URL.")
    url_timeout_s: float = Field(
        10, gt=0, le=300, description="Seconds for an image to arrive from its URL, redirects included."
    )
    url_max_redirects: int = Field(3, ge=0, le=20, description="Redirects followed from an image's URL.")
    url_connections: int = Field(
        32, ge=1, le=1024, description="Images fetched from URLs at once, for all clients, who take turns."
    )
    body_timeout_s: float = Field(30, gt=0, description="Seconds a client may take to send its body.")
    shutdown_timeout_s: int = Field(
        30, ge=0, description="Seconds for accepted requests to finish at shutdown; what is left gets a 503."
    )
    prompt_cache_bytes: int = Field(
        64 * MEBIBYTE, ge=0, description="Memory for text features of recent prompts and labels; 0 keeps none."
    )
    pool_bytes: int = Field(
        0,
        ge=0,
        description="Memory for assembling batches of 32 MiB and more, shared by all bundles; 0 takes twice what the"
        " largest batch of each needs. Lower where memory is short: batches are then run in parts.",
    )
    memory_limit_bytes: int = Field(
        0,
        ge=0,
        description="Refuse to start where bundles would need more memory; 0 takes the cgroup's limit, or none."
        " Activations are unknown with `warm_up` none.",
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda:[0-9]{1,2})$",
        description="Where models run: cpu; cuda:N, refused where it cannot be had; auto, the first GPU where a runtime"
        " for it is installed and works, else the processor.",
    )
    gpu_memory_bytes: int = Field(
        0,
        ge=0,
        description="The most GPU memory for weights, activations and buffers: refuse to start where bundles would need"
        " more; 0 takes what is free at start. Lower where others use the GPU too.",
    )
    otlp_endpoint: str | None = Field(
        None,
        description="Collector that OpenTelemetry traces are sent to over OTLP/HTTP, like http://localhost:4318; none:"
        " nothing is sent. Needs the extra `otel`.",
    )
    trace_share: float = Field(
        1, ge=0, le=1, description="Share of the requests to trace, unless they say themselves; lower under high load."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line: debug, info, warning or error."
    )

    log_format: Literal["text", "json"] = Field(
        "text", description="Lines for people (text) or for a collector (json)."
    )
    log_inputs: bool = Field(
        False, description="Log paths, prompts, labels and image URLs with each request; off, nothing clients send."
    )

    @field_validator("bundle", "bundle_roots", mode="before")
    @classmethod
    def _paths_are_listed_like_path(cls, value: object) -> object:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value

    @field_validator(*_WORDS, mode="before")
    @classmethod
    def _words_are_separated_by_commas(cls, value: object, info: ValidationInfo) -> object:
        given = [value] if isinstance(value, str) else value
        if not isinstance(given, list | tuple) or not all(isinstance(part, str) for part in given):
            return value
        words = [word.strip() for part in given for word in part.split(",") if word.strip()]
        return [word.upper() for word in words] if info.field_name == "image_formats" else words

    @field_validator("cors_origins")
    @classmethod
    def _origins_have_no_path(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin: a scheme and a host, like https://app.example, or *")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in value:
            ipaddress.ip_network(proxy)  # its ValueError says what is wrong
        return value

    @field_validator("bundle_roots")
    @classmethod
    def _roots_are_folders(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in value:
            if not root.is_dir():
                raise ValueError(f"{root} is no folder")
        return tuple(root.resolve() for root in value)

    @field_validator("warm_up", mode="before")
    @classmethod
    def _warm_up_may_be_on_or_off(cls, value: object) -> object:
        return {"true": "auto", "false": "none"}.get(str(value).lower(), value)

    @field_validator("otlp_endpoint")
    @classmethod
    def _collector_has_an_address(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "http://none")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("this is no address like http://localhost:4318")
        if "@" in parts.netloc:
            raise ValueError("credentials go into OTEL_EXPORTER_OTLP_HEADERS, not into the address")
        return value

    @model_validator(mode="after")
    def _roots_need_keys(self) -> "Settings":
        if self.bundle_roots and self.api_keys_file is None:
            raise ValueError(
                "bundle_roots without api_keys_file: whoever reaches the server could change what it serves; make a key"
                " with `openset key new --admin`"
            )
        return self

    @model_validator(mode="after")
    def _largest_request_fits_the_queue(self) -> "Settings":
        if self.max_images > self.max_queue:
            raise ValueError(
                f"max_images={self.max_images} with max_queue={self.max_queue}: a request of {self.max_images} images"
                " could never be accepted; max_queue must be at least max_images"
            )
        return self

    @property
    def run_threads(self) -> int:
        """Threads of each model run, as a number."""
        return self.threads or available_cpus()

    @property
    def pool_threads(self) -> int:
        """Threads of the decoding pool, as a number."""
        return self.decode_threads or available_cpus()


def read_settings(config: Path | None = None, **given: Any) -> Settings:
    """The settings: `given` (flags) before the environment before the file `config`.

    Without `config`, OPENSET_CONFIG may name the file. SettingsError for a value that does not fit.
    """
    environment = {name.upper(): value for name, value in os.environ.items()}
    config = config or (Path(environment[CONFIG]) if environment.get(CONFIG) else None)
    filed = _filed(config) if config else {}
    told = {name: _Told(f"{config}: {name}", value) for name, value in filed.items()}
    for name in Settings.model_fields:
        if (variable := PREFIX + name.upper()) in environment:
            told[name] = _Told(variable, environment[variable])
            filed.pop(name, None)
    told |= {name: _Told("--" + name.replace("_", "-"), value) for name, value in given.items()}
    try:
        return Settings(**(filed | given))
    except ValidationError as error:
        raise SettingsError("; ".join(_fault(fault, told) for fault in error.errors())) from None


@dataclass(frozen=True)
class _Told:
    """A value and where it was given."""

    where: str
    value: object


def _filed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(f"the settings file {path} cannot be read: {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from None


def shown_default(default: object) -> str:
    """A setting's default as it is shown to people."""
    if default is None or default == ():
        return "none"
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _fault(fault: Any, told: Mapping[str, _Told]) -> str:
    reason = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:
        return str(reason)
    name = str(fault["loc"][0])
    if name not in Settings.model_fields:
        return f"{told[name].where}: there is no setting {name!r}; the settings are {', '.join(Settings.model_fields)}"
    described = Settings.model_fields[name].description
    return f"{told[name].where}={told[name].value!r} is refused: {reason[0].lower()}{reason[1:]}. {described}"
