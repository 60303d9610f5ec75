"""The memory budget as `/models` words it, of the host and of a GPU."""

from pydantic import BaseModel, Field


class GpuFootprintBody(BaseModel):
    """The memory of a GPU that a model was given, in bytes."""

    device: str
    weights_bytes: int = Field(description="The sizes of the files that run there.")
    block_bytes: int = Field(description="What its most demanding engine computes in; all engines share it.")
    batch_bytes: int = Field(description="Of its largest batch, beside these.")
    measured: bool = Field(description="The batch: what a second image took, times the batch; if false, inputs alone.")


class FootprintBody(BaseModel):
    """The memory a model was given, in bytes."""

    bucket: str = Field(description="The largest batch it may run.")
    weights_bytes: int = Field(description="The sizes of its files.")
    activations_bytes: int = Field(description="Of its largest batches, of images and of texts.")
    measured: bool = Field(
        description="Activations: measured on one image and one text at their largest, times the batch; or, if false,"
        " estimated as the inputs alone."
    )
    buffers_bytes: int = Field(description="What assembling its largest batch takes of the pool.")
    gpu: GpuFootprintBody | None = Field(None, description="Beside all this, if a part runs on a GPU.")


class GpuBudgetBody(BaseModel):
    """The memory of a GPU for all models together, in bytes."""

    device: str
    limit_bytes: int = Field(description="Above it the server would not have started: the setting, else what was free.")
    total_bytes: int = Field(description="The models' weights and batches, and one block that all engines compute in.")
    block_bytes: int = Field(description="The block: as large as the most demanding engine needs.")


class BudgetBody(BaseModel):
    """The memory of all models together, in bytes."""

    limit_bytes: int | None = Field(description="Above it the server would not have started; null without a limit.")
    total_bytes: int = Field(description="The models' weights and activations, and what follows.")
    process_bytes: int = Field(description="Held before models were loaded, measured; 0 where it cannot be.")
    pool_bytes: int = Field(description="The most that buffers of batches may take.")
    prompt_cache_bytes: int = Field(description="The most that features of recent texts may take.")
    gpu: GpuBudgetBody | None = Field(None, description="The same of the GPU, if a model runs on one.")
