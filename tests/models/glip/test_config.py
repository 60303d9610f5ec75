"""Configuration of GLIP: strides, and sizes that do not fit together."""

from dataclasses import replace

import pytest

from models.glip.config import GLIP_CONFIGS, GLIP_T


def test_strides_go_on_from_the_last_stage():
    assert GLIP_T.strides == (8, 16, 32, 64, 128)
    assert replace(GLIP_T, stages=(2, 3), extra_levels=1, anchor_sizes=(1, 2, 3)).strides == (16, 32, 64)


def test_published_variants_differ_in_fusion_and_backbone():
    assert [config.fused for config in GLIP_CONFIGS.values()] == [True, False, True]
    assert GLIP_CONFIGS["glip_l"].tower_layers == 8


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"anchor_sizes": (64, 128)}, "2 anchor_sizes for 5 levels"),
        ({"extra_levels": 3, "anchor_sizes": (1, 2, 3, 4, 5, 6)}, "extra_levels"),
        ({"norm_groups": 7}, "norm_groups 7"),
        ({"fusion_heads": 5}, "fusion_heads 5"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        replace(GLIP_T, **changes)
