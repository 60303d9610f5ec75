"""Prompts about a scene: names of present and absent objects, and descriptions that are true or untrue of it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from models.data.grounding_prompts import PromptConfig
from models.synthetic.label_phrases import PHRASE_TEMPLATES, PhraseSampler
from models.synthetic.scenes import COLOUR_WORDS, SceneBatch
from models.synthetic.sprites import NamedObject

# Centres up to this part of the picture's width or height are on the left or at the top; from the rest on, opposite.
SIDE = 0.42
TIMES_LARGER = 2.0  # ratio of areas from which two objects of a kind are "large" and "small"
LARGE, SMALL = ("large", "big"), ("small", "little")
SIMILAR = 16  # nearest names among which a similar one is chosen


@dataclass(frozen=True)
class SceneContents:
    """Contents of a picture of `size` (height, width): objects [n], boxes x0, y0, x1, y1 [n, 4], and paint [n]."""

    objects: Sequence[int]
    boxes: Sequence[Sequence[float]]
    colours: Sequence[int]
    size: tuple[int, int]


@dataclass(frozen=True)
class SceneLabel:
    """A label of a prompt: its text, the object it names, and the rows of the picture's objects that it describes."""

    text: str
    index: int
    rows: tuple[int, ...]


class ScenePromptSampler:
    """Chooses the labels of a prompt about a scene, in random order and in various words.

    `embeddings` [N, D], unit length, of the objects' labels tell which names are similar.
    """

    def __init__(
        self, objects: tuple[NamedObject, ...], config: PromptConfig, *, embeddings: Tensor | None = None
    ) -> None:
        self._objects, self._config = objects, config
        self._synonymous = synonymous(objects)
        cosines = None if embeddings is None else embeddings @ embeddings.T
        self._similar = None if cosines is None else cosines.topk(min(SIMILAR, len(cosines))).indices.tolist()

    def sample(self, scene: SceneContents, rng: random.Random) -> tuple[SceneLabel, ...]:
        """Choose the labels of a prompt about a picture."""
        config, phrases = self._config, PhraseSampler(PHRASE_TEMPLATES, rng=rng)
        count = rng.randint(config.fewest_labels, config.most_labels)
        asked = 0.0 if rng.random() < config.absent else config.asked
        labels = [
            self._label(index, scene, phrases, rng) for index in dict.fromkeys(scene.objects) if rng.random() < asked
        ]
        rng.shuffle(labels)
        labels = labels[:count]
        for index in self._some_absent(scene, count - len(labels), rng):
            labels.append(SceneLabel(phrases.text(self._objects[index]), index, ()))
        rng.shuffle(labels)
        return tuple(labels)

    def absent(self, present: Sequence[int]) -> tuple[int, ...]:
        """The objects that are neither present nor may be called the same as one that is."""
        taken = set(present).union(*(self._synonymous[index] for index in set(present)))
        return tuple(index for index in range(len(self._objects)) if index not in taken)

    def _label(self, index: int, scene: SceneContents, phrases: PhraseSampler, rng: random.Random) -> SceneLabel:
        """A name or a description of an object that is present."""
        rows = tuple(row for row, other in enumerate(scene.objects) if other == index)
        if rng.random() < self._config.described:
            options = [*self._by_colour(rows, scene, rng), *by_place(rows, scene), *by_size(rows, scene)]
            if options:
                words, found = rng.choice(options)
                return SceneLabel(words.format(phrases.word(self._objects[index])), index, found)
        return SceneLabel(phrases.text(self._objects[index]), index, rows)

    def _by_colour(
        self, rows: tuple[int, ...], scene: SceneContents, rng: random.Random
    ) -> list[tuple[str, tuple[int, ...]]]:
        """Descriptions of painted objects by colour; none if one has its own colours, which might be any."""
        found = {scene.colours[row] for row in rows}
        if -1 in found:
            return []
        colour = rng.choice(sorted(found))
        if rng.random() < self._config.misdescribed:
            colour = rng.choice([other for other in range(len(COLOUR_WORDS)) if other not in found])
        words = rng.choice(("{}", "the {}", "a {}")).format(COLOUR_WORDS[colour] + " {}")
        return [(words, tuple(row for row in rows if scene.colours[row] == colour))]

    def _some_absent(self, scene: SceneContents, count: int, rng: random.Random) -> list[int]:
        absent = self.absent(scene.objects)
        chosen: dict[int, None] = {}
        if self._similar is not None and scene.objects:
            allowed = set(absent)
            for _ in range(count):
                other = rng.choice(self._similar[rng.choice(scene.objects)])
                if rng.random() < self._config.similar and other in allowed:
                    chosen[other] = None
        others = [index for index in absent if index not in chosen]
        return [*chosen, *rng.sample(others, max(0, min(len(others), count - len(chosen))))][:count]


def contents(scene: SceneBatch) -> list[SceneContents]:
    """The contents of each picture of a batch."""
    size = (scene.pixels.shape[2], scene.pixels.shape[3])
    rows = zip(scene.objects, scene.boxes_xyxy, scene.colours, strict=True)
    return [SceneContents(objects.tolist(), boxes.tolist(), colours.tolist(), size) for objects, boxes, colours in rows]


def by_place(rows: tuple[int, ...], scene: SceneContents) -> list[tuple[str, tuple[int, ...]]]:
    """Descriptions of objects that are clearly on one side of the picture."""
    height, width = scene.size
    across = [(scene.boxes[row][0] + scene.boxes[row][2]) / 2 / width for row in rows]
    down = [(scene.boxes[row][1] + scene.boxes[row][3]) / 2 / height for row in rows]
    found = []
    for words, places in (
        ("the {} on the left", across),
        ("the {} on the right", [1 - place for place in across]),
        ("the {} at the top", down),
        ("the {} at the bottom", [1 - place for place in down]),
    ):
        inside = tuple(row for row, place in zip(rows, places, strict=True) if place < SIDE)
        clear = all(place < SIDE or place > 1 - SIDE for place in places)
        if inside and clear:
            found.append((words, inside))
    return found


def by_size(rows: tuple[int, ...], scene: SceneContents) -> list[tuple[str, tuple[int, ...]]]:
    """Descriptions of the smallest or the largest of several objects, if it is so by far."""
    if len(rows) < 2:
        return []
    found: list[tuple[str, tuple[int, ...]]] = []
    areas = {row: (box[2] - box[0]) * (box[3] - box[1]) for row in rows for box in [scene.boxes[row]]}
    order = sorted(rows, key=lambda row: areas[row])
    if areas[order[1]] > TIMES_LARGER * areas[order[0]]:
        found += [(f"the {word} {{}}", (order[0],)) for word in SMALL]
    if areas[order[-1]] > TIMES_LARGER * areas[order[-2]]:
        found += [(f"the {word} {{}}", (order[-1],)) for word in LARGE]
    return found


def synonymous(objects: Sequence[NamedObject]) -> list[set[int]]:
    """For each object, those that may be called by its name: "cat" and "black cat", "car" and "police car"."""
    names = [[set(text.lower().split()) for text in (item.label, *item.synonyms)] for item in objects]
    having: dict[str, list[tuple[int, set[str]]]] = {}
    for index, texts in enumerate(names):
        for words in texts:
            for word in words:
                having.setdefault(word, []).append((index, words))
    groups: list[set[int]] = [set() for _ in objects]
    for index, texts in enumerate(names):
        for words in texts:
            for other, theirs in having[next(iter(words))]:
                if other != index and words <= theirs:
                    groups[index].add(other)
                    groups[other].add(index)
    return groups
