"""Where models are to run, as the operator says it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """`name`: "cpu"; "cuda:N"; or "auto", the first GPU for what can use it here, else the processor.

    memory_bytes: the most of a GPU that may be taken, by all bundles together; 0 sets no limit.
    """

    name: str
    memory_bytes: int = 0

    @property
    def ordinal(self) -> int | None:
        """The number of the GPU that comes into question."""
        if self.name == "cpu":
            return None
        return 0 if self.name == "auto" else int(self.name.removeprefix("cuda:"))

    @property
    def demanded(self) -> bool:
        """Whether nothing but this GPU will do."""
        return self.name.startswith("cuda:")


PROCESSOR, AUTO = Device("cpu"), Device("auto")
