"""HEIC pictures, as phones take them, by the package pillow-heif (extra `heic`): Pillow's plugin of libheif."""

from functools import cache
from importlib.util import find_spec

FORMAT = "HEIF"  # as the plugin calls it


def is_installed() -> bool:
    """True where HEIC can be read."""
    return find_spec("pillow_heif") is not None


@cache
def register() -> None:
    """Let Pillow open HEIC pictures, in one thread, without their thumbnails, depth maps and auxiliary images."""
    import pillow_heif

    pillow_heif.register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
