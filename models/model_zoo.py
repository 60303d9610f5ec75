"""The official checkpoints that can be fetched by name, and where on the Hugging Face hub they are.

The repositories are those that the models' own pages name: openai/CLIP's and IDEA-Research's model cards, and for GLIP
the model zoo of microsoft/GLIP's README.
"""

from dataclasses import dataclass

HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Official:
    """A published checkpoint.

    `weights` are names of files that hold the same weights, the best one first: what a repository has of them decides.
    `config` goes with weights that do not tell all of their shape.
    """

    title: str
    repository: str
    licence: str
    weights: tuple[str, ...] = HF_WEIGHTS
    config: str | None = "config.json"


OFFICIAL = {
    "clip-vit-base-patch32": Official("CLIP ViT-B/32", "openai/clip-vit-base-patch32", "MIT"),
    "clip-vit-base-patch16": Official("CLIP ViT-B/16", "openai/clip-vit-base-patch16", "MIT"),
    "clip-vit-large-patch14": Official("CLIP ViT-L/14", "openai/clip-vit-large-patch14", "MIT"),
    "grounding-dino-tiny": Official("Grounding DINO Swin-T", "IDEA-Research/grounding-dino-tiny", "Apache-2.0"),
    "grounding-dino-base": Official("Grounding DINO Swin-B", "IDEA-Research/grounding-dino-base", "Apache-2.0"),
    "glip-tiny": Official(
        "GLIP-T", "GLIPModel/GLIP", "MIT", weights=("glip_tiny_model_o365_goldg_cc_sbu.pth",), config=None
    ),
    "glip-large": Official("GLIP-L", "GLIPModel/GLIP", "MIT", weights=("glip_large_model.pth",), config=None),
}
