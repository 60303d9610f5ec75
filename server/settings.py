"""What an operator can turn: read once, from `OPENSET_*` environment variables and the flags of `openset serve`."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from server.processors import available_processors
from server.schemas import MAX_ITEMS

PREFIX = "OPENSET_"
MEBIBYTE = 2**20


class SettingsError(ValueError):
    """A setting that cannot be used; the message names it, its value and what is accepted."""


class Settings(BaseSettings):
    """Every setting, its default, and when to turn it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 to be reached from other machines.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    bundle: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="Bundle folder to serve, repeatable (in the environment: separated like PATH);"
        " without any, the bundles that ship with the server.",
    )
    allow_uncertified: bool = Field(
        False, description="Serve artefacts without a valid certificate; only to try out an export."
    )
    warm_up: bool = Field(
        True,
        description="Run each bundle once at its largest before ready, which also measures its memory; off to start"
        " sooner.",
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
    max_body_bytes: int = Field(32 * MEBIBYTE, ge=1024, description="Bytes of a request's body.")
    max_image_pixels: int = Field(
        50_000_000, ge=1, le=178_000_000, description="Pixels of an image, checked before it is decoded."
    )
    max_aspect_ratio: float = Field(
        100, ge=1, le=1000, description="Longer over shorter side of an image: a thin strip would be enlarged a lot."
    )
    body_timeout_s: float = Field(30, gt=0, description="Seconds a client may take to send its body.")
    shutdown_timeout_s: int = Field(30, ge=0, description="Seconds for accepted requests to finish at shutdown.")
    prompt_cache_bytes: int = Field(
        64 * MEBIBYTE, ge=0, description="Memory for text features of recent prompts and labels; 0 keeps none."
    )
    pool_bytes: int = Field(
        0,
        ge=0,
        description="Memory for assembling batches, shared by all bundles; 0 takes twice what the largest batch of"
        " each needs. Lower where memory is short: batches are then run in parts.",
    )
    memory_limit_bytes: int = Field(
        0,
        ge=0,
        description="Refuse to start where bundles would need more memory; 0 takes the cgroup's limit, or none."
        " Activations are known only with `warm_up`.",
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
        description="The most GPU memory of each ONNX Runtime session, and of the buffers of engines; 0 sets no limit."
        " Lower where others use the GPU too.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line: debug, info, warning or error."
    )

    @field_validator("bundle", mode="before")
    @classmethod
    def _paths_are_listed_like_path(cls, value: object) -> object:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value

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
        return self.threads or available_processors()

    @property
    def pool_threads(self) -> int:
        """Threads of the decoding pool, as a number."""
        return self.decode_threads or available_processors()


def read_settings(**given: Any) -> Settings:
    """The settings, `given` (flags) before the environment; SettingsError for a value that does not fit."""
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError("; ".join(_fault(fault, given) for fault in error.errors())) from None


def _fault(fault: Any, given: dict[str, Any]) -> str:
    reason = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:
        return str(reason)
    name = str(fault["loc"][0])
    if name not in Settings.model_fields:
        return f"there is no setting {name!r}; the settings are {', '.join(Settings.model_fields)}"
    variable = PREFIX + name.upper()
    shown = f"--{name.replace('_', '-')}" if name in given else variable
    value = given.get(name, os.environ.get(variable))
    return f"{shown}={value!r} is refused: {reason[0].lower()}{reason[1:]}. {Settings.model_fields[name].description}"
