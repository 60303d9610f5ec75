"""Model zoo: published checkpoints by name, and their repositories on the Hugging Face hub.

The repositories are named by the models' own pages: the model cards of their publishers, and for GLIP the model zoo in
microsoft/GLIP's README.
"""

import re
from dataclasses import dataclass

# SHA-256 of OpenAI's own files, which its clip/clip.py names in their addresses; its repository is under MIT.
OPENAI_FILES = frozenset(
    {
        "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",  # RN50
        "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",  # RN101
        "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",  # RN50x4
        "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",  # RN50x16
        "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",  # RN50x64
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",  # ViT-B/32
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",  # ViT-B/16
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",  # ViT-L/14
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",  # ViT-L/14@336px
    }
)
HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# Types in a config.json of transformers.
MODEL_TYPES = ("clip", "grounding-dino", "mm-grounding-dino")
_CONFIGS = ("config.json", "open_clip_config.json")
_SETTINGS = (*_CONFIGS, "preprocessor_config.json", "processor_config.json", "tokenizer.json")
_CARDS = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt")
_MAX_NAME = 90  # a bundle's name has at most 100 letters
# As the hub names them: neither part ends in a dash or dot, and two of them or ".git" are refused below.
_PART = r"[A-Za-z0-9_](?:[\w.-]{0,94}\w)?"
_REPOSITORY = re.compile(rf"({_PART}/{_PART})(?:@([A-Za-z0-9][\w./-]{{0,99}}))?", re.ASCII)


@dataclass(frozen=True)
class Official:
    """A published checkpoint.

    revision: branch, tag or commit. weights: names of files with the same weights, in order of preference; the first
    that the repository has is fetched. config: file beside weights whose shapes do not determine the model; `beside`
    are fetched too, where they are there. family and variant: of the model, as `models.registry` and the family's
    configs name them.
    """

    title: str
    repository: str
    licence: str
    family: str
    variant: str
    weights: tuple[str, ...] = HF_WEIGHTS
    config: str | None = "config.json"
    beside: tuple[str, ...] = ("preprocessor_config.json",)
    revision: str = "main"

    @property
    def is_any(self) -> bool:
        """True for a repository that no name stands for, whose files say what it is."""
        return not self.family

    @property
    def is_folder(self) -> bool:
        """True where the files beside the weights belong to them."""
        return self.config is not None or bool(self.beside)


def repository(name: str) -> Official | None:
    """A checkpoint of any repository, "org/name" or "org/name@revision", whose files say what it is; None for a word.

    Weights of transformers are preferred to those of open_clip, where a repository has both.
    """
    match = _REPOSITORY.fullmatch(name)
    if match is None or ".." in name or "--" in match[1] or match[1].endswith(".git") or len(name) > _MAX_NAME:
        return None
    return Official(
        title=match[1],
        repository=match[1],
        licence="unknown",
        family="",
        variant="",
        weights=HF_WEIGHTS + OPEN_CLIP_WEIGHTS,
        config=None,
        beside=_SETTINGS + _CARDS,
        revision=match[2] or "main",
    )


def _datacomp(patches: str, repository: str) -> Official:
    return Official(
        f"CLIP {patches} of DataComp",
        f"laion/{repository}",
        "MIT",
        family="clip",
        variant=f"{patches} (GELU)",
        weights=OPEN_CLIP_WEIGHTS,
        config="open_clip_config.json",
        beside=(),
    )


def _llmdet(backbone: str, size: str, letter: str) -> Official:
    return Official(
        f"LLMDet {backbone}",
        f"iSEE-Laboratory/llmdet_{size}",
        "Apache-2.0",
        family="grounding_dino",
        variant=f"mm_swin_{letter}",
    )


OFFICIAL = {
    "clip-vit-base-patch32": Official(
        "CLIP ViT-B/32", "openai/clip-vit-base-patch32", "MIT", family="clip", variant="ViT-B/32"
    ),
    "clip-vit-base-patch16": Official(
        "CLIP ViT-B/16", "openai/clip-vit-base-patch16", "MIT", family="clip", variant="ViT-B/16"
    ),
    "clip-vit-large-patch14": Official(
        "CLIP ViT-L/14", "openai/clip-vit-large-patch14", "MIT", family="clip", variant="ViT-L/14"
    ),
    "clip-vit-base-patch32-datacomp": _datacomp("ViT-B/32", "CLIP-ViT-B-32-DataComp.XL-s13B-b90K"),
    "clip-vit-base-patch16-datacomp": _datacomp("ViT-B/16", "CLIP-ViT-B-16-DataComp.XL-s13B-b90K"),
    "clip-vit-large-patch14-datacomp": _datacomp("ViT-L/14", "CLIP-ViT-L-14-DataComp.XL-s13B-b90K"),
    "grounding-dino-tiny": Official(
        "Grounding DINO Swin-T",
        "IDEA-Research/grounding-dino-tiny",
        "Apache-2.0",
        family="grounding_dino",
        variant="swin_t",
    ),
    "grounding-dino-base": Official(
        "Grounding DINO Swin-B",
        "IDEA-Research/grounding-dino-base",
        "Apache-2.0",
        family="grounding_dino",
        variant="swin_b",
    ),
    "llmdet-tiny": _llmdet("Swin-T", "tiny", "t"),
    "llmdet-base": _llmdet("Swin-B", "base", "b"),
    "llmdet-large": _llmdet("Swin-L", "large", "l"),
    "glip-tiny": Official(
        "GLIP-T",
        "GLIPModel/GLIP",
        "MIT",
        family="glip",
        variant="glip_t",
        weights=("glip_tiny_model_o365_goldg_cc_sbu.pth",),
        config=None,
        beside=(),
    ),
    "glip-large": Official(
        "GLIP-L",
        "GLIPModel/GLIP",
        "MIT",
        family="glip",
        variant="glip_l",
        weights=("glip_large_model.pth",),
        config=None,
        beside=(),
    ),
}
