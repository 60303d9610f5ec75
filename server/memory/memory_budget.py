"""Memory budgets, one for each device: what bundles and their shared buffers may take, against the device's limit.

These models are part of the body of `/models`: `exclude` leaves out what only planning needs. Figures are bytes.
"""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from server.contract.manifest import BundleError


class OverBudget(BundleError):
    """A bundle that does not fit in memory; the message says which bucket, and what to change."""


class GpuFootprint(BaseModel):
    """Memory of a GPU that a model was given, in bytes."""

    model_config = ConfigDict(frozen=True)

    device: str
    weights_bytes: int = Field(description="Sizes of the files that run there.")
    block_bytes: int = Field(description="Scratch memory of its most demanding engine; all engines share it.")
    batch_bytes: int = Field(description="Its largest batch, beside these.")
    measured: bool = Field(description="Batch: what a second image took, times the batch; if false, inputs alone.")
    name: str = Field(exclude=True)
    bucket: str = Field(exclude=True)
    batch: int = Field(exclude=True)
    limit_bytes: int = Field(exclude=True)  # of the device, for all bundles

    @property
    def own_bytes(self) -> int:
        """Memory that no other bundle shares."""
        return self.weights_bytes + self.batch_bytes


class HostFootprint(BaseModel):
    """Memory of the host that a model was given, in bytes."""

    model_config = ConfigDict(frozen=True)

    bucket: str = Field(description="Largest batch it may run.")
    weights_bytes: int = Field(description="Sizes of its files.")
    activations_bytes: int = Field(description="Its largest batches, of images and of texts.")
    measured: bool = Field(
        description="Activations: measured on one image and one text at their largest, times the batch; or, if false,"
        " estimated as the inputs alone."
    )
    buffers_bytes: int = Field(description="Buffers that its largest batch is assembled in.")
    gpu: GpuFootprint | None = Field(default=None, description="Beside all this, if a part runs on a GPU.")
    name: str = Field(exclude=True)
    batch: int = Field(exclude=True)
    texts_bytes: int = Field(exclude=True)  # of the largest batch of texts, in `activations_bytes`
    image_buffers_bytes: int = Field(exclude=True)  # of a batch of one image

    @property
    def batch_bytes(self) -> int:
        """Activations of the largest batch of images."""
        return self.activations_bytes - self.texts_bytes

    @property
    def own_bytes(self) -> int:
        """Memory that no other bundle shares."""
        return self.weights_bytes + self.activations_bytes


class MemoryBudget(BaseModel):
    """Memory of one device for all models together, in bytes."""

    model_config = ConfigDict(frozen=True)

    device: str
    limit_bytes: int | None
    total_bytes: int

    def _sum(
        self, footprints: Sequence[HostFootprint | GpuFootprint], shared: Mapping[str, int], *, remedy: str
    ) -> int:
        """Memory of these bundles and of what they share; OverBudget for the first that passes the limit."""
        total = sum(shared.values())
        for place, footprint in enumerate(footprints):
            parts = {
                f"{footprint.bucket} ({'measured' if footprint.measured else 'estimated from its inputs'})":
                    footprint.own_bytes - footprint.weights_bytes,
                "its weights": footprint.weights_bytes,
                "bundles before it": sum(other.own_bytes for other in footprints[:place]),
                **shared,
            }  # fmt: skip
            total = sum(parts.values())
            if self.limit_bytes is None or total <= self.limit_bytes:
                continue
            excess, batch = total - self.limit_bytes, footprint.batch
            fitting = batch - -(-excess * batch // footprint.batch_bytes)
            smaller = f"set max_batch to {fitting}, " if fitting > 0 else "lower max_batch, " if batch > 1 else ""
            raise OverBudget(
                f"{footprint.name} does not fit in {self.device} memory:"
                f" {', '.join(f'{part} {_mib(nbytes)}' for part, nbytes in parts.items() if nbytes)}"
                f" make {_mib(total)}, the limit is {_mib(self.limit_bytes)}."
                f" To make room, {smaller}serve fewer bundles, {remedy}"
            )
        return total


class GpuBudget(MemoryBudget):
    """Memory of a GPU for all models together, in bytes."""

    limit_bytes: int = Field(description="Above it the server would not have started: the setting, else what was free.")
    total_bytes: int = Field(description="Weights and batches of the models, and one block for all engines.")
    block_bytes: int = Field(description="Scratch memory that all engines share: what the most demanding one needs.")

    @classmethod
    def of(cls, footprints: Sequence[GpuFootprint]) -> "GpuBudget | None":
        """The budget of the one GPU that these bundles run on, None without one; OverBudget where they do not fit."""
        if not footprints:
            return None
        device, limit, block = footprints[0].device, footprints[0].limit_bytes, max(f.block_bytes for f in footprints)
        remedy = f"{'build engines of fewer or smaller shapes, ' if block else ''}free memory of the GPU, raise"
        budget = cls(device=device, limit_bytes=limit, total_bytes=0, block_bytes=block)
        shared = {"the scratch memory of all engines": block}
        total = budget._sum(footprints, shared, remedy=f"{remedy} gpu_memory_bytes, or set device to cpu")
        return budget.model_copy(update={"total_bytes": total})


class HostBudget(MemoryBudget):
    """Memory of the host for all models together, in bytes."""

    device: str = Field(default="host", exclude=True)
    limit_bytes: int | None = Field(description="Above it the server would not have started; null without a limit.")
    total_bytes: int = Field(description="Weights and activations of the models, and what follows.")
    process_bytes: int = Field(description="Held before models were loaded, measured; 0 where it cannot be.")
    pool_bytes: int = Field(description="The most that buffers of batches may take.")
    prompt_cache_bytes: int = Field(description="The most that features of recent texts may take.")
    gpu: GpuBudget | None = Field(default=None, description="The same of the GPU, if a model runs on one.")
    pool_setting: int = Field(exclude=True)  # 0: the pool's size follows from the bundles

    def fit(self, footprints: Sequence[HostFootprint]) -> "HostBudget":
        """This budget with these bundles; OverBudget names the first that does not fit, here or on its GPU.

        The pool is as large as the setting says, else twice what the largest batch of every bundle needs.
        """
        pool = self.pool_setting or 2 * sum(footprint.buffers_bytes for footprint in footprints)
        for footprint in footprints:
            if footprint.image_buffers_bytes > pool:
                raise OverBudget(
                    f"pool_bytes={pool} does not hold one image of {footprint.name} at its largest"
                    f" ({footprint.bucket}): set it to at least {footprint.image_buffers_bytes}, or to 0"
                )
        shared = {"the pool": pool, "the prompt cache": self.prompt_cache_bytes, "the process": self.process_bytes}
        remedy = "lower pool_bytes or prompt_cache_bytes, or raise memory_limit_bytes"
        total, on_gpu = self._sum(footprints, shared, remedy=remedy), [each.gpu for each in footprints if each.gpu]
        return self.model_copy(update={"total_bytes": total, "pool_bytes": pool, "gpu": GpuBudget.of(on_gpu)})


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB"
