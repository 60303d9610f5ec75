"""State-dict keys of Microsoft's .pth files -> ours.

"{}" is a number, or two; a tower layer is three official modules, whose numbers `weights.py` computes. A key in MODULES
or in a LAYER or BLOCK table stands for its weight and its bias.
"""

MARKERS = (
    "rpn.head.log_scale",
    "rpn.head.bias_lang",
    "rpn.head.dot_product_projection_text.weight",
    "language_backbone.body.model.embeddings.word_embeddings.weight",
)
PATCHES = "backbone.body.patch_embed.proj.weight"
# In a fused model the first module of the tower is the fusion, in GLIP-T (A) a convolution.
FUSION_MARKER = "rpn.head.dyhead_tower.0.b_attn.gamma_v"
# In the published files, unused at inference: the class head is built, and left out of the loss.
SURPLUS = (
    "language_backbone.body.model.embeddings.position_ids",
    "rpn.head.cls_logits.weight",
    "rpn.head.cls_logits.bias",
)

PARAMETERS = {
    "language_backbone.body.model.embeddings.word_embeddings.weight": "text_backbone.embeddings.words.weight",
    "language_backbone.body.model.embeddings.position_embeddings.weight": "text_backbone.embeddings.positions.weight",
    "language_backbone.body.model.embeddings.token_type_embeddings.weight": (
        "text_backbone.embeddings.token_types.weight"
    ),
    "rpn.head.log_scale": "token_alignment.log_scale",
    "rpn.head.bias_lang": "token_alignment.bias_text",
    "rpn.head.bias0": "token_alignment.bias",
}
MODULES = {
    "language_backbone.body.model.embeddings.LayerNorm": "text_backbone.embeddings.norm",
    "backbone.body.patch_embed.proj": "backbone.patch_embed",
    "backbone.body.patch_embed.norm": "backbone.patch_norm",
    "backbone.body.norm1": "backbone.norms.1",
    "backbone.body.norm2": "backbone.norms.2",
    "backbone.body.norm3": "backbone.norms.3",
    "backbone.fpn.fpn_inner2": "pyramid.lateral.0",
    "backbone.fpn.fpn_inner3": "pyramid.lateral.1",
    "backbone.fpn.fpn_inner4": "pyramid.lateral.2",
    "backbone.fpn.fpn_layer2": "pyramid.output.0",
    "backbone.fpn.fpn_layer3": "pyramid.output.1",
    "backbone.fpn.fpn_layer4": "pyramid.output.2",
    "backbone.fpn.top_blocks.p6": "pyramid.extra.0",
    "backbone.fpn.top_blocks.p7": "pyramid.extra.1",
    "rpn.head.bbox_pred": "box_head.deltas",
    "rpn.head.centerness": "box_head.centerness",
    "rpn.head.dot_product_projection_text": "token_alignment.text_proj",
}
BERT_LAYER = {
    "language_backbone.body.model.encoder.layer.{}.attention.self.query": "text_backbone.layers.{}.attention.q_proj",
    "language_backbone.body.model.encoder.layer.{}.attention.self.key": "text_backbone.layers.{}.attention.k_proj",
    "language_backbone.body.model.encoder.layer.{}.attention.self.value": "text_backbone.layers.{}.attention.v_proj",
    "language_backbone.body.model.encoder.layer.{}.attention.output.dense": (
        "text_backbone.layers.{}.attention.out_proj"
    ),
    "language_backbone.body.model.encoder.layer.{}.attention.output.LayerNorm": "text_backbone.layers.{}.norm1",
    "language_backbone.body.model.encoder.layer.{}.intermediate.dense": "text_backbone.layers.{}.ffn.fc1",
    "language_backbone.body.model.encoder.layer.{}.output.dense": "text_backbone.layers.{}.ffn.fc2",
    "language_backbone.body.model.encoder.layer.{}.output.LayerNorm": "text_backbone.layers.{}.norm2",
}
SWIN_BLOCK = {
    "backbone.body.layers.{}.blocks.{}.norm1": "backbone.stages.{}.blocks.{}.norm1",
    "backbone.body.layers.{}.blocks.{}.attn.qkv": "backbone.stages.{}.blocks.{}.attn.qkv",
    "backbone.body.layers.{}.blocks.{}.attn.proj": "backbone.stages.{}.blocks.{}.attn.proj",
    "backbone.body.layers.{}.blocks.{}.norm2": "backbone.stages.{}.blocks.{}.norm2",
    "backbone.body.layers.{}.blocks.{}.mlp.fc1": "backbone.stages.{}.blocks.{}.mlp.fc1",
    "backbone.body.layers.{}.blocks.{}.mlp.fc2": "backbone.stages.{}.blocks.{}.mlp.fc2",
}
SWIN_BLOCK_PARAMETERS = {
    "backbone.body.layers.{}.blocks.{}.attn.relative_position_bias_table": (
        "backbone.stages.{}.blocks.{}.attn.relative_position_bias_table"
    ),
    "backbone.body.layers.{}.blocks.{}.attn.relative_position_index": (
        "backbone.stages.{}.blocks.{}.attn.relative_position_index"
    ),
}
SWIN_MERGE_PARAMETERS = {
    "backbone.body.layers.{}.downsample.norm.weight": "backbone.merges.{}.norm.weight",
    "backbone.body.layers.{}.downsample.norm.bias": "backbone.merges.{}.norm.bias",
    "backbone.body.layers.{}.downsample.reduction.weight": "backbone.merges.{}.reduction.weight",
}
# The three modules of a tower layer, by the number of the official module -> by our layer's number.
FUSION_PARAMETERS = {
    "rpn.head.dyhead_tower.{}.b_attn.gamma_v": "tower.{}.fusion.gamma_image",
    "rpn.head.dyhead_tower.{}.b_attn.gamma_l": "tower.{}.fusion.gamma_text",
}
FUSION = {
    "rpn.head.dyhead_tower.{}.b_attn.layer_norm_v": "tower.{}.fusion.norm_image",
    "rpn.head.dyhead_tower.{}.b_attn.layer_norm_l": "tower.{}.fusion.norm_text",
    "rpn.head.dyhead_tower.{}.b_attn.attn.v_proj": "tower.{}.fusion.attention.image_proj",
    "rpn.head.dyhead_tower.{}.b_attn.attn.l_proj": "tower.{}.fusion.attention.text_proj",
    "rpn.head.dyhead_tower.{}.b_attn.attn.values_v_proj": "tower.{}.fusion.attention.image_value_proj",
    "rpn.head.dyhead_tower.{}.b_attn.attn.values_l_proj": "tower.{}.fusion.attention.text_value_proj",
    "rpn.head.dyhead_tower.{}.b_attn.attn.out_v_proj": "tower.{}.fusion.attention.image_out_proj",
    "rpn.head.dyhead_tower.{}.b_attn.attn.out_l_proj": "tower.{}.fusion.attention.text_out_proj",
}
TEXT_LAYER = {
    "rpn.head.dyhead_tower.{}.attention.self.query": "tower.{}.text_layer.attention.q_proj",
    "rpn.head.dyhead_tower.{}.attention.self.key": "tower.{}.text_layer.attention.k_proj",
    "rpn.head.dyhead_tower.{}.attention.self.value": "tower.{}.text_layer.attention.v_proj",
    "rpn.head.dyhead_tower.{}.attention.output.dense": "tower.{}.text_layer.attention.out_proj",
    "rpn.head.dyhead_tower.{}.attention.output.LayerNorm": "tower.{}.text_layer.norm1",
    "rpn.head.dyhead_tower.{}.intermediate.dense": "tower.{}.text_layer.ffn.fc1",
    "rpn.head.dyhead_tower.{}.output.dense": "tower.{}.text_layer.ffn.fc2",
    "rpn.head.dyhead_tower.{}.output.LayerNorm": "tower.{}.text_layer.norm2",
}
CONV = {
    "rpn.head.dyhead_tower.{}.DyConv.0.conv": "tower.{}.conv.coarser.conv",
    "rpn.head.dyhead_tower.{}.DyConv.0.bn": "tower.{}.conv.coarser.norm",
    "rpn.head.dyhead_tower.{}.DyConv.1.conv": "tower.{}.conv.same.conv",
    "rpn.head.dyhead_tower.{}.DyConv.1.bn": "tower.{}.conv.same.norm",
    "rpn.head.dyhead_tower.{}.DyConv.2.conv": "tower.{}.conv.finer.conv",
    "rpn.head.dyhead_tower.{}.DyConv.2.bn": "tower.{}.conv.finer.norm",
    "rpn.head.dyhead_tower.{}.AttnConv.1": "tower.{}.conv.scale_attention",
    "rpn.head.dyhead_tower.{}.relu.fc.0": "tower.{}.conv.activation.fc1",
    "rpn.head.dyhead_tower.{}.relu.fc.2": "tower.{}.conv.activation.fc2",
    "rpn.head.dyhead_tower.{}.offset": "tower.{}.conv.offset",
}
# One number a level, which is one vector of ours.
SCALES = tuple(f"rpn.head.scales.{level}.scale" for level in range(5))
CELL_ANCHORS = tuple(f"rpn.anchor_generator.cell_anchors.{level}" for level in range(5))
