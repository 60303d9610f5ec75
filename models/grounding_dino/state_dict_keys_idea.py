"""State-dict keys of IDEA-Research's .pth files -> ours.

"{}" is a layer's number. A key in MODULES or in a LAYER or BLOCK table stands for its weight and its bias.
"""

MARKERS = (
    "transformer.level_embed",
    "transformer.tgt_embed.weight",
    "feat_map.weight",
    "transformer.enc_output.weight",
)
PATCHES = "backbone.0.patch_embed.proj.weight"
# In the published files, unused at inference (GroundingDINO issue 271; the pooler is built but never run).
SURPLUS = ("label_enc.weight", "bert.embeddings.position_ids", "bert.pooler.dense.weight", "bert.pooler.dense.bias")

PARAMETERS = {
    "bert.embeddings.word_embeddings.weight": "text_backbone.embeddings.words.weight",
    "bert.embeddings.position_embeddings.weight": "text_backbone.embeddings.positions.weight",
    "bert.embeddings.token_type_embeddings.weight": "text_backbone.embeddings.token_types.weight",
    "transformer.level_embed": "level_embed",
    "transformer.tgt_embed.weight": "query_embed.weight",
}
MODULES = {
    "bert.embeddings.LayerNorm": "text_backbone.embeddings.norm",
    "feat_map": "text_proj",
    "backbone.0.patch_embed.proj": "backbone.patch_embed",
    "backbone.0.patch_embed.norm": "backbone.patch_norm",
    "transformer.enc_output": "selection.output",
    "transformer.enc_output_norm": "selection.norm",
    "transformer.enc_out_bbox_embed.layers.0": "selection.box_head.layers.0",
    "transformer.enc_out_bbox_embed.layers.1": "selection.box_head.layers.1",
    "transformer.enc_out_bbox_embed.layers.2": "selection.box_head.layers.2",
    "transformer.decoder.norm": "decoder.norm",
    "transformer.decoder.ref_point_head.layers.0": "decoder.position_head.layers.0",
    "transformer.decoder.ref_point_head.layers.1": "decoder.position_head.layers.1",
}
# The levels beyond those of the backbone follow on them.
FIRST_STAGE = 0
STAGE = {"backbone.0.norm{}": "backbone.norms.{}"}
LATERAL_LEVEL = {"input_proj.{}.0": "neck.lateral.{}.0", "input_proj.{}.1": "neck.lateral.{}.1"}
EXTRA_LEVEL = {"input_proj.{}.0": "neck.extra.{}.0", "input_proj.{}.1": "neck.extra.{}.1"}
BERT_LAYER = {
    "bert.encoder.layer.{}.attention.self.query": "text_backbone.layers.{}.attention.q_proj",
    "bert.encoder.layer.{}.attention.self.key": "text_backbone.layers.{}.attention.k_proj",
    "bert.encoder.layer.{}.attention.self.value": "text_backbone.layers.{}.attention.v_proj",
    "bert.encoder.layer.{}.attention.output.dense": "text_backbone.layers.{}.attention.out_proj",
    "bert.encoder.layer.{}.attention.output.LayerNorm": "text_backbone.layers.{}.norm1",
    "bert.encoder.layer.{}.intermediate.dense": "text_backbone.layers.{}.ffn.fc1",
    "bert.encoder.layer.{}.output.dense": "text_backbone.layers.{}.ffn.fc2",
    "bert.encoder.layer.{}.output.LayerNorm": "text_backbone.layers.{}.norm2",
}
SWIN_BLOCK = {
    "backbone.0.layers.{}.blocks.{}.norm1": "backbone.stages.{}.blocks.{}.norm1",
    "backbone.0.layers.{}.blocks.{}.attn.qkv": "backbone.stages.{}.blocks.{}.attn.qkv",
    "backbone.0.layers.{}.blocks.{}.attn.proj": "backbone.stages.{}.blocks.{}.attn.proj",
    "backbone.0.layers.{}.blocks.{}.norm2": "backbone.stages.{}.blocks.{}.norm2",
    "backbone.0.layers.{}.blocks.{}.mlp.fc1": "backbone.stages.{}.blocks.{}.mlp.fc1",
    "backbone.0.layers.{}.blocks.{}.mlp.fc2": "backbone.stages.{}.blocks.{}.mlp.fc2",
}
SWIN_BLOCK_PARAMETERS = {
    "backbone.0.layers.{}.blocks.{}.attn.relative_position_bias_table": (
        "backbone.stages.{}.blocks.{}.attn.relative_position_bias_table"
    ),
    "backbone.0.layers.{}.blocks.{}.attn.relative_position_index": (
        "backbone.stages.{}.blocks.{}.attn.relative_position_index"
    ),
}
SWIN_MERGE_PARAMETERS = {
    "backbone.0.layers.{}.downsample.norm.weight": "backbone.merges.{}.norm.weight",
    "backbone.0.layers.{}.downsample.norm.bias": "backbone.merges.{}.norm.bias",
    "backbone.0.layers.{}.downsample.reduction.weight": "backbone.merges.{}.reduction.weight",
}
ENCODER_LAYER = {
    "transformer.encoder.fusion_layers.{}.layer_norm_v": "encoder.fusion_layers.{}.norm_image",
    "transformer.encoder.fusion_layers.{}.layer_norm_l": "encoder.fusion_layers.{}.norm_text",
    "transformer.encoder.fusion_layers.{}.attn.v_proj": "encoder.fusion_layers.{}.attention.image_proj",
    "transformer.encoder.fusion_layers.{}.attn.l_proj": "encoder.fusion_layers.{}.attention.text_proj",
    "transformer.encoder.fusion_layers.{}.attn.values_v_proj": "encoder.fusion_layers.{}.attention.image_value_proj",
    "transformer.encoder.fusion_layers.{}.attn.values_l_proj": "encoder.fusion_layers.{}.attention.text_value_proj",
    "transformer.encoder.fusion_layers.{}.attn.out_v_proj": "encoder.fusion_layers.{}.attention.image_out_proj",
    "transformer.encoder.fusion_layers.{}.attn.out_l_proj": "encoder.fusion_layers.{}.attention.text_out_proj",
    "transformer.encoder.text_layers.{}.self_attn.out_proj": "encoder.text_layers.{}.self_attn.out_proj",
    "transformer.encoder.text_layers.{}.norm1": "encoder.text_layers.{}.norm1",
    "transformer.encoder.text_layers.{}.linear1": "encoder.text_layers.{}.ffn.fc1",
    "transformer.encoder.text_layers.{}.linear2": "encoder.text_layers.{}.ffn.fc2",
    "transformer.encoder.text_layers.{}.norm2": "encoder.text_layers.{}.norm2",
    "transformer.encoder.layers.{}.self_attn.sampling_offsets": "encoder.layers.{}.self_attn.sampling_offsets",
    "transformer.encoder.layers.{}.self_attn.attention_weights": "encoder.layers.{}.self_attn.attention_weights",
    "transformer.encoder.layers.{}.self_attn.value_proj": "encoder.layers.{}.self_attn.value_proj",
    "transformer.encoder.layers.{}.self_attn.output_proj": "encoder.layers.{}.self_attn.output_proj",
    "transformer.encoder.layers.{}.norm1": "encoder.layers.{}.norm1",
    "transformer.encoder.layers.{}.linear1": "encoder.layers.{}.ffn.fc1",
    "transformer.encoder.layers.{}.linear2": "encoder.layers.{}.ffn.fc2",
    "transformer.encoder.layers.{}.norm2": "encoder.layers.{}.norm2",
}
ENCODER_LAYER_PARAMETERS = {
    "transformer.encoder.fusion_layers.{}.gamma_v": "encoder.fusion_layers.{}.gamma_image",
    "transformer.encoder.fusion_layers.{}.gamma_l": "encoder.fusion_layers.{}.gamma_text",
}
DECODER_LAYER = {
    "transformer.decoder.layers.{}.self_attn.out_proj": "decoder.layers.{}.self_attn.out_proj",
    "transformer.decoder.layers.{}.norm2": "decoder.layers.{}.self_norm",
    "transformer.decoder.layers.{}.ca_text.out_proj": "decoder.layers.{}.text_attn.out_proj",
    "transformer.decoder.layers.{}.catext_norm": "decoder.layers.{}.text_norm",
    "transformer.decoder.layers.{}.cross_attn.sampling_offsets": "decoder.layers.{}.image_attn.sampling_offsets",
    "transformer.decoder.layers.{}.cross_attn.attention_weights": "decoder.layers.{}.image_attn.attention_weights",
    "transformer.decoder.layers.{}.cross_attn.value_proj": "decoder.layers.{}.image_attn.value_proj",
    "transformer.decoder.layers.{}.cross_attn.output_proj": "decoder.layers.{}.image_attn.output_proj",
    "transformer.decoder.layers.{}.norm1": "decoder.layers.{}.image_norm",
    "transformer.decoder.layers.{}.linear1": "decoder.layers.{}.ffn.fc1",
    "transformer.decoder.layers.{}.linear2": "decoder.layers.{}.ffn.fc2",
    "transformer.decoder.layers.{}.norm3": "decoder.layers.{}.ffn_norm",
}
# Query, key and value projection in one in_proj_weight and one in_proj_bias, each a third of the rows.
PACKED_ATTENTION = {
    "transformer.encoder.text_layers.{}.self_attn": "encoder.text_layers.{}.self_attn",
    "transformer.decoder.layers.{}.self_attn": "decoder.layers.{}.self_attn",
    "transformer.decoder.layers.{}.ca_text": "decoder.layers.{}.text_attn",
}
# One box head, stored once for each decoder layer and once more for each of its outputs.
BOX_HEAD = ("transformer.decoder.bbox_embed.{}.layers", "bbox_embed.{}.layers")
