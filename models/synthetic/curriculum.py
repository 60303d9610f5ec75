"""From easy pictures to the full difficulty."""

from dataclasses import dataclass, fields

from models.synthetic.scenes import SceneConfig

EASY = SceneConfig(
    smallest=0.75, largest=1.0, colour=0.08, turn=0.1, busy=0.2, degrade=0.0, most_objects=5,
    restyle=0.2, warp=0.02,
)  # fmt: skip


@dataclass(frozen=True)
class Curriculum:
    """Pictures change evenly from `easy` to `full` until the share `until` of the run, and stay there."""

    full: SceneConfig
    easy: SceneConfig = EASY
    until: float = 0.5

    def at(self, progress: float) -> SceneConfig:
        """The pictures at `progress` (0 to 1) of the run."""
        part = min(1.0, progress / self.until) if self.until > 0 else 1.0
        values = {}
        for field in fields(SceneConfig):
            easy, full = getattr(self.easy, field.name), getattr(self.full, field.name)
            value = easy * (1 - part) + full * part
            values[field.name] = round(value) if isinstance(full, int) else value
        return SceneConfig(**values)
