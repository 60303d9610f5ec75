"""Prompts about a scene: what is there, what is not, and what is there but looks otherwise or stands elsewhere."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.synthetic.label_phrases import PHRASE_TEMPLATES, PhraseSampler
from models.synthetic.scenes import COLOUR_WORDS
from models.synthetic.sprites import NamedObject
from server.contract.text import Prompt, PromptTokenizer

# Centres up to this part of the picture's width or height are on the left or at the top; from the rest on, opposite.
SIDE = 0.42
TIMES_LARGER = 2.0  # in area, of a "large" thing to the "small" one of the same kind
LARGE, SMALL = ("large", "big"), ("small", "little")


@dataclass(frozen=True)
class AskingConfig:
    """Prompts of `fewest_labels` to `most_labels` labels.

    A share `absent` of the prompts names nothing that is there: a detector that always saw something it was asked for
    gives a house to whoever asks for a banana alone. Of other prompts each object that is there is named with the
    chance `asked`, a share `described` of them by colour, place or size where that tells something, and of the painted
    ones a share `misdescribed` in a colour that they do not have. A share `similar` of what is absent has a name like
    that of something present.
    """

    fewest_labels: int = 1
    most_labels: int = 14
    absent: float = 0.4
    asked: float = 0.85
    described: float = 0.3
    misdescribed: float = 0.3
    similar: float = 0.3


@dataclass(frozen=True)
class Shown:
    """What a picture of `size` (height, width) shows: objects [n], boxes x0, y0, x1, y1 [n, 4], and paint [n]."""

    objects: Sequence[int]
    boxes: Sequence[Sequence[float]]
    colours: Sequence[int]
    size: tuple[int, int]


@dataclass(frozen=True)
class Label:
    """A label of a prompt: its text, the object it names, and the rows of the picture's objects that it describes."""

    text: str
    index: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """A prompt and its labels, in order."""

    labels: tuple[Label, ...]
    prompt: Prompt

    @property
    def named(self) -> tuple[int, ...]:
        """The objects that the labels name."""
        return tuple(label.index for label in self.labels)

    def answers(self, tokens: int) -> tuple[Tensor, Tensor]:
        """The rows [M] of objects that labels describe, and the tokens of those labels [M, tokens] bool."""
        rows = sorted({row for label in self.labels for row in label.rows})
        owner = torch.full((tokens,), -1)
        owner[: len(self.prompt)] = torch.from_numpy(self.prompt.token_label)
        positive = torch.zeros(len(rows), tokens, dtype=torch.bool)
        for place, label in enumerate(self.labels):
            for row in label.rows:
                positive[rows.index(row)] |= owner == place
        return torch.tensor(rows, dtype=torch.long), positive


class Asker:
    """Makes prompts in random order and in other words (or of labels only, which are never described)."""

    def __init__(
        self,
        objects: tuple[NamedObject, ...],
        prompts: PromptTokenizer,
        config: AskingConfig,
        *,
        rng: random.Random,
        labels_only: bool = False,
        places: Tensor | None = None,
    ) -> None:
        """`places` [N, D], unit length, is where the objects' labels lie, to know similar ones by."""
        self._objects, self._prompts, self._config = objects, prompts, config
        self._rng = rng
        self._phrases = None if labels_only else PhraseSampler(PHRASE_TEMPLATES, rng=rng)
        self._akin = akin(objects)
        self._similar = None if places is None else (places @ places.T).topk(min(16, len(places))).indices.tolist()

    def ask(self, shown: Shown) -> Question:
        """A prompt about a picture."""
        config, rng = self._config, self._rng
        count = rng.randint(config.fewest_labels, config.most_labels)
        asked = 0.0 if rng.random() < config.absent else config.asked
        labels = [self._label(index, shown) for index in dict.fromkeys(shown.objects) if rng.random() < asked]
        rng.shuffle(labels)
        labels = labels[:count]
        labels += [Label(self._text(index), index, ()) for index in self._absent(shown, count - len(labels))]
        rng.shuffle(labels)
        return Question(tuple(labels), self._prompts.from_labels([label.text for label in labels]))

    def _text(self, index: int) -> str:
        item = self._objects[index]
        return self._phrases.text(item) if self._phrases else item.label

    def _label(self, index: int, shown: Shown) -> Label:
        """A label for an object that is there."""
        rows = tuple(row for row, other in enumerate(shown.objects) if other == index)
        if self._phrases is not None and self._rng.random() < self._config.described:
            options = [*self._by_colour(index, rows, shown), *by_place(rows, shown), *by_size(rows, shown)]
            if options:
                words, found = self._rng.choice(options)
                name = self._phrases.word(self._objects[index])
                return Label(words.format(name), index, found)
        return Label(self._text(index), index, rows)

    def _by_colour(self, index: int, rows: tuple[int, ...], shown: Shown) -> list[tuple[str, tuple[int, ...]]]:
        """Ways to name painted objects by colour, if none has its own, which might be any."""
        found = {shown.colours[row] for row in rows}
        if -1 in found:
            return []
        colour = self._rng.choice(sorted(found))
        if self._rng.random() < self._config.misdescribed:
            colour = self._rng.choice([other for other in range(len(COLOUR_WORDS)) if other not in found])
        words = self._rng.choice(("{}", "the {}", "a {}")).format(COLOUR_WORDS[colour] + " {}")
        return [(words, tuple(row for row in rows if shown.colours[row] == colour))]

    def _absent(self, shown: Shown, count: int) -> list[int]:
        """Objects that are not there, nor might be taken for one by their name."""
        taken = set(shown.objects).union(*(self._akin[index] for index in set(shown.objects)))
        chosen: dict[int, None] = {}
        if self._similar is not None and shown.objects:
            for _ in range(count):
                other = self._rng.choice(self._similar[self._rng.choice(shown.objects)])
                if self._rng.random() < self._config.similar and other not in taken:
                    chosen[other] = None
        others = [index for index in range(len(self._objects)) if index not in taken and index not in chosen]
        return [*chosen, *self._rng.sample(others, max(0, min(len(others), count - len(chosen))))][:count]


def by_place(rows: tuple[int, ...], shown: Shown) -> list[tuple[str, tuple[int, ...]]]:
    """Ways to name what stands clearly on one side."""
    height, width = shown.size
    across = [(shown.boxes[row][0] + shown.boxes[row][2]) / 2 / width for row in rows]
    down = [(shown.boxes[row][1] + shown.boxes[row][3]) / 2 / height for row in rows]
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


def by_size(rows: tuple[int, ...], shown: Shown) -> list[tuple[str, tuple[int, ...]]]:
    """Ways to name the smallest or the largest of several, where it is by far."""
    if len(rows) < 2:
        return []
    found: list[tuple[str, tuple[int, ...]]] = []
    areas = {row: (box[2] - box[0]) * (box[3] - box[1]) for row in rows for box in [shown.boxes[row]]}
    order = sorted(rows, key=lambda row: areas[row])
    if areas[order[1]] > TIMES_LARGER * areas[order[0]]:
        found += [(f"the {word} {{}}", (order[0],)) for word in SMALL]
    if areas[order[-1]] > TIMES_LARGER * areas[order[-2]]:
        found += [(f"the {word} {{}}", (order[-1],)) for word in LARGE]
    return found


def akin(objects: Sequence[NamedObject]) -> list[set[int]]:
    """For each object, those that its name may mean as well: "cat" and "black cat", "car" and "police car"."""
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
