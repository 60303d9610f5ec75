"""Word knowledge for small models: text encoders distilled from a large sentence encoder.

    python -m models.synthetic.distillation OUT --teacher FOLDER --wordnet DICT --sprites PACK --names NAMES

Two students learn together: a CLIP text tower, and a BERT for detectors. Both map a text to where the teacher puts it,
in a space that is centred, since a plain sentence encoder holds all names alike. A sentence around a name ("a photo of
a dog") leads to where the bare name lies.
"""

import argparse
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from models.clip.config import TextConfig
from models.clip.model import TextTower
from models.layers.bert import Bert, BertConfig
from models.synthetic.distilled_text import BERT, CLIP_TEXT, CORPUS, TOKENIZER
from models.synthetic.label_phrases import SENTENCES
from models.synthetic.sentence_encoder import Teacher
from models.synthetic.sprites import NAMES_FILE, NamedObject, load_pack, read_names
from models.synthetic.vocabulary import CONTEXT_LENGTH, vocabulary_size, write_english_vocabulary
from models.synthetic.wordnet import (
    COLOURS,
    CONTEXT,
    LOOKS,
    PLACES,
    SIZES,
    Description,
    WordNet,
    descriptions,
)
from models.tokenizers import text_rules
from models.training.loop import LoopConfig, SelfFedTask, Trainer
from server.contract.text import SentenceTokenizer

LOG = logging.getLogger(__name__)
DIMENSIONS, BATCH = 192, 256
EVENNESS = 0.1  # directions are divided by this power of their variance; 0.5 would make them all equally wide
TEMPERATURE = 20.0
SEVERAL_WORDS = 4000  # names of several words that the teacher reads, the commonest
CLIP_CONFIG = TextConfig(width=128, layers=2, heads=4)
BERT_CONFIG = BertConfig(width=128, layers=2, heads=4, hidden=256, max_positions=64, token_types=1)
LOOP = LoopConfig(steps=3000, learning_rate=2e-3, warmup_steps=200, average=0.995, validate_every=500, save_every=250)


@dataclass(frozen=True)
class Corpus:
    """Texts, names first, and where they lie [N, DIMENSIONS], unit length."""

    texts: list[str]
    names: int
    targets: Tensor


class Students(nn.Module):
    """Both students; `head` reads a BERT's mean token state in the teacher's space."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.clip = TextTower(TextConfig(**{**vars(CLIP_CONFIG), "vocab_size": vocabulary}), DIMENSIONS)
        self.bert = Bert(BertConfig(**{**vars(BERT_CONFIG), "vocab_size": vocabulary}))
        self.head = nn.Linear(BERT_CONFIG.width, DIMENSIONS)

    def by_bert(self, ids: Tensor, valid: Tensor) -> Tensor:
        """Ids [B, T] of a label and its separator, valid [B, T] bool -> [B, DIMENSIONS]."""
        length = ids.shape[1]
        looks = valid[:, None].expand(-1, length, -1) | torch.eye(length, dtype=torch.bool)
        states = self.bert(ids, torch.arange(length).expand_as(ids), looks)
        named = valid & torch.cat([valid[:, 1:], torch.zeros_like(valid[:, :1])], 1)  # all but the separator
        return self.head((states * named[:, :, None]).sum(1) / named.sum(1, keepdim=True))


class DistillationTask:
    """Cosine to the teacher's place, and contrast with the places of the batch's other texts."""

    def __init__(self, model: Students, corpus: Corpus, tokenizer: Path, *, batch: int, seed: int) -> None:
        self.model: nn.Module = model
        self.corpus, self.batch = corpus, batch
        rules = text_rules(tokenizer, "phrases", max_tokens=CONTEXT_LENGTH)
        self._tokenizer = SentenceTokenizer(tokenizer, text_rules(tokenizer, "sentence", max_tokens=CONTEXT_LENGTH))
        self._separator = rules.separator_ids[0]
        self._rules = rules
        self._rng = random.Random(seed)

    def loss(self, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Half of a batch are names, of which two in three stand in a sentence; a quarter of other texts do."""
        rng, corpus = self._rng, self.corpus
        rows = [rng.randrange(corpus.names) for _ in range(self.batch // 2)]
        rows += [rng.randrange(len(corpus.texts)) for _ in range(self.batch - len(rows))]
        texts = [
            rng.choice(SENTENCES).format(corpus.texts[row])
            if rng.random() < (0.67 if row < corpus.names else 0.25)
            else corpus.texts[row]
            for row in rows
        ]
        wanted = corpus.targets[rows]
        same = torch.tensor(rows)[:, None] == torch.tensor(rows)[None]
        clip, bert = self._encode(self.model, texts)
        figures: dict[str, float] = {}
        total = torch.zeros(())
        for name, found in (("clip", clip), ("bert", bert)):
            cosines = functional.normalize(found, dim=1) @ wanted.T
            near = 1 - cosines.diagonal()
            apart = functional.cross_entropy(
                (TEMPERATURE * cosines).masked_fill(same & ~torch.eye(len(rows), dtype=torch.bool), -torch.inf),
                torch.arange(len(rows)),
            )
            total = total + 3 * near.mean() + 0.3 * apart
            figures |= {f"{name}_cosine": 1 - float(near.detach().mean()), f"{name}_contrast": float(apart.detach())}
        return total, figures

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Of bare names and of names in a sentence, the share that lies nearest to its own place among all names."""
        names, targets = self.corpus.texts[: self.corpus.names], self.corpus.targets[: self.corpus.names]
        figures = {}
        for kind, template in (("name", "{}"), ("sentence", "a photo of a {}.")):
            found = self._encode(model, [template.format(name) for name in names])
            for student, places in zip(("clip", "bert"), found, strict=True):
                cosines = functional.normalize(places, dim=1) @ targets.T
                figures[f"{student}_{kind}_cosine"] = float(cosines.diagonal().mean())
                figures[f"{student}_{kind}_found"] = float(
                    (cosines.argmax(1) == torch.arange(len(names))).float().mean()
                )
        return figures

    def finish(self, model: nn.Module) -> dict[str, float]:
        """Nothing is left to do."""
        return {}

    def is_slow(self, name: str) -> bool:
        """Everything learns at the full rate."""
        return False

    def state(self) -> dict[str, Any]:
        """Random state of the texts."""
        return {"rng": self._rng.getstate()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with the texts that would have come next."""
        self._rng.setstate(state["rng"])

    def _encode(self, model: nn.Module, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        assert isinstance(model, Students)
        ids = torch.from_numpy(self._tokenizer.encode(texts))
        label = torch.where(ids == self._rules.end_id, self._separator, ids)[:, 1:]
        valid = label != self._rules.pad_id
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.is_grad_enabled()):
            clip, bert = model.clip(ids), model.by_bert(label, valid)
        return clip.float(), bert.float()


def even_out(embeddings: Tensor, names: int) -> Tensor:
    """Teacher's embeddings [N, C] -> [N, DIMENSIONS], unit length: centred on the names, directions evened out."""
    centred = embeddings - embeddings[:names].mean(0)
    # The names decide what matters, other texts keep what only they vary in from being lost.
    covariance = centred[:names].T @ centred[:names] / names + 0.5 * centred.T @ centred / len(centred)
    values, directions = torch.linalg.eigh(covariance.double())
    kept = slice(-DIMENSIONS, None)
    return functional.normalize((centred @ directions[:, kept].float()) / values[kept].float() ** EVENNESS, dim=1)


def build_corpus(
    objects: Sequence[NamedObject], wordnet: WordNet, teacher: Teacher, *, phrases: int, seed: int
) -> Corpus:
    """Names, their synonyms and keywords, WordNet's visible nouns, and `phrases` descriptions of both."""
    labels = list(dict.fromkeys(item.label for item in objects))
    others = [text for item in objects for text in (*item.synonyms, *item.keywords)]
    everyday, nouns = wordnet.everyday_nouns(), wordnet.visible_nouns()
    seldom = [name for name in nouns if " " not in name] + [name for name in nouns if " " in name][:SEVERAL_WORDS]
    words = list(dict.fromkeys([*labels, *others, *everyday, *seldom]))
    keywords = {item.label: f"{item.label}, {', '.join(item.keywords[:5])}" for item in objects if item.keywords}
    described = descriptions(labels, everyday, phrases, rng=random.Random(seed))
    made = list({item.text: item for item in described}.values())
    places = knowledge(words, made, wordnet, keywords, teacher)
    return Corpus([*words, *(item.text for item in made)], len(labels), even_out(places, len(labels)))


def knowledge(
    words: Sequence[str],
    made: Sequence[Description],
    wordnet: WordNet,
    keywords: Mapping[str, str],
    teacher: Teacher,
) -> Tensor:
    """Where words and descriptions lie for the teacher [N, C].

    A word is read with what it is a kind of and with its meaning: alone, "kangaroo" lies near "crocodile", with them
    near "koala". What WordNet does not know is read with its keywords. A description differs from its nouns as the
    teacher has it.
    """
    explained = [wordnet.explanations(word) or ((keywords[word],) if word in keywords else ()) for word in words]
    texts = [*words, *(text for group in explained for text in group), *(item.text for item in made)]
    LOG.info("the teacher reads %d texts", len(texts))
    read = teacher.encode(texts)
    plain, rest = read[: len(words)], iter(read[len(words) :])
    grouped = zip(plain, explained, strict=True)
    full = torch.stack([torch.stack([word, *(next(rest) for _ in group)]).mean(0) for word, group in grouped])
    row = {word: index for index, word in enumerate(words)}
    nouns = [[row[noun] for noun in item.nouns] for item in made]
    described = [found + (full[rows] - plain[rows]).mean(0) for found, rows in zip(rest, nouns, strict=True)]
    return torch.stack([*full, *described])


def english_words(objects: Sequence[NamedObject], wordnet: WordNet) -> tuple[list[str], list[str]]:
    """Texts whose words a vocabulary needs, and texts whose words it should have as far as there is room."""
    needed = [text for item in objects for text in (item.label, *item.synonyms)]
    attributes = [*COLOURS, *SIZES, *LOOKS, *PLACES, *CONTEXT, *SENTENCES]
    keywords = [text for item in objects for text in item.keywords]
    nouns = wordnet.visible_nouns()
    single = [name for name in nouns if " " not in name]
    return [*needed, *attributes], [*wordnet.everyday_nouns(), *keywords, *single, *nouns]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(description="Distil small text encoders from a sentence encoder.")
    parser.add_argument("out", type=Path, help="folder of the run, with what it makes")
    parser.add_argument("--teacher", type=Path, required=True, help="folder with all-MiniLM-L6-v2's model.safetensors")
    parser.add_argument("--wordnet", type=Path, required=True, help="WordNet's dict folder")
    parser.add_argument("--sprites", type=Path, required=True, help="sprite pack, for the names' keywords")
    parser.add_argument("--names", type=Path, default=NAMES_FILE, help="list of objects")
    parser.add_argument("--tokens", type=int, default=2816, help="size of the vocabulary")
    parser.add_argument("--phrases", type=int, default=60000, help="descriptions the teacher reads")
    parser.add_argument("--steps", type=int, default=LOOP.steps)
    parser.add_argument("--resume", action="store_true", help="go on from the last state in OUT")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.manual_seed(0)
    objects = read_names(chosen.names, pack=load_pack(chosen.sprites))
    tokenizer = chosen.out / TOKENIZER
    if not tokenizer.is_file():
        write_english_vocabulary(*english_words(objects, WordNet(chosen.wordnet)), tokenizer, size=chosen.tokens)
    corpus = _corpus(chosen, objects)
    model = Students(vocabulary_size(tokenizer))
    config = LoopConfig(**{**vars(LOOP), "steps": chosen.steps})
    task = DistillationTask(model, corpus, tokenizer, batch=BATCH, seed=0)
    trainer = Trainer(SelfFedTask(task), config, chosen.out)
    if chosen.resume:
        trainer.resume()
    trained = trainer.run()
    assert isinstance(trained, Students)
    save_file(trained.clip.state_dict(), chosen.out / CLIP_TEXT)
    save_file(trained.bert.state_dict(), chosen.out / BERT)
    return 0


def _corpus(chosen: argparse.Namespace, objects: Sequence[NamedObject]) -> Corpus:
    """What the teacher said, kept beside the run: reading everything takes it minutes."""
    file = chosen.out / CORPUS
    if file.is_file():
        return Corpus(**torch.load(file, weights_only=True))
    corpus = build_corpus(objects, WordNet(chosen.wordnet), Teacher(chosen.teacher), phrases=chosen.phrases, seed=0)
    torch.save(vars(corpus), file)
    return corpus


if __name__ == "__main__":
    raise SystemExit(main())
