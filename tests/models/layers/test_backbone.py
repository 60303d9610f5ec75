"""Backbones of the detectors, and nearest-neighbour indices."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from models.layers.backbone import EfficientNetStages, ResNetStages, build_backbone, nearest_index, word_maps
from models.layers.efficientnet import EfficientNetConfig
from models.layers.resnet import ResNetConfig
from models.layers.swin import Swin, SwinConfig

SWIN = SwinConfig(embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=3)
RESNET = ResNetConfig((1, 1, 1, 1), 4)
EFFICIENTNET = EfficientNetConfig(widths=(4, 4, 8, 8, 8, 8, 8), repeats=(1,) * 7, stem=4, head=8, classes=5, words=6)


@pytest.mark.parametrize(("config", "kind"), [(SWIN, Swin), (RESNET, ResNetStages), (EFFICIENTNET, EfficientNetStages)])
def test_backbone_gives_a_map_for_each_stage_in_use(config, kind):
    backbone = build_backbone(config, (1, 3)).eval()
    assert isinstance(backbone, kind)
    finer, coarser = backbone(torch.randn(2, 3, 64, 96))
    assert finer.shape == (2, config.channels[1], 8, 12)
    assert coarser.shape == (2, config.channels[3], 2, 3)


def test_the_last_map_of_an_efficientnet_ends_with_the_words_of_each_cell():
    backbone, pixels = build_backbone(EFFICIENTNET, (1, 3)).eval(), torch.randn(1, 3, 64, 64)
    assert isinstance(backbone, EfficientNetStages)
    assert backbone.words is not None
    last = backbone.efficientnet(pixels)[-1]
    torch.testing.assert_close(backbone(pixels)[-1], torch.cat([last, backbone.words.of_cells(last)], 1))


def test_words_of_drawings_are_added_on_finer_cells():
    backbone = build_backbone(replace(EFFICIENTNET, drawn=7), (1, 2, 3)).eval()
    assert isinstance(backbone, EfficientNetStages)
    assert backbone.drawn is not None
    torch.nn.init.normal_(backbone.drawn.output.weight)
    maps = backbone(torch.randn(2, 3, 64, 96))
    (found,) = word_maps(backbone, maps)
    size = EFFICIENTNET.words
    coarse = maps[2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    cells = torch.cat([F.avg_pool2d(maps[0], 2), maps[1], coarse[:, :-size]], 1)
    expected = coarse[:, -size:] + backbone.drawn(cells.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected)
    assert word_maps(build_backbone(RESNET, (1, 2, 3)), maps) == []
    with pytest.raises(ValueError, match="drawn needs the stages 1, 2 and 3"):
        build_backbone(replace(EFFICIENTNET, drawn=7), (2, 3))


@pytest.mark.parametrize(("source", "target"), [(7, 3), (3, 7), (100, 13), (5, 5), (1, 4)])
def test_nearest_index_is_that_of_interpolate(source, target):
    values = torch.arange(source, dtype=torch.float32)[None, None]
    expected = F.interpolate(values, size=target, mode="nearest")[0, 0]
    assert torch.equal(values[0, 0][nearest_index(source, target, torch.device("cpu"))], expected)
