"""State-dict keys of Hugging Face folders (transformers 4.45) -> ours.

"{}" is a layer's number. A key in MODULES or in a LAYER or BLOCK table stands for its weight and its bias.
"""

MARKERS = (
    "model.level_embed",
    "model.query_position_embeddings.weight",
    "model.text_projection.weight",
    "model.enc_output.weight",
)
PATCHES = "model.backbone.conv_encoder.model.embeddings.patch_embeddings.projection.weight"
_SWIN = "model.backbone.conv_encoder.model"
# Of the whole Swin, which transformers 5 makes and stores with the backbone that it is here.
SURPLUS = (f"{_SWIN}.swin.layernorm.weight", f"{_SWIN}.swin.layernorm.bias")
_BERT = "model.text_backbone"

PARAMETERS = {
    f"{_BERT}.embeddings.word_embeddings.weight": "text_backbone.embeddings.words.weight",
    f"{_BERT}.embeddings.position_embeddings.weight": "text_backbone.embeddings.positions.weight",
    f"{_BERT}.embeddings.token_type_embeddings.weight": "text_backbone.embeddings.token_types.weight",
    "model.level_embed": "level_embed",
    "model.query_position_embeddings.weight": "query_embed.weight",
}
MODULES = {
    f"{_BERT}.embeddings.LayerNorm": "text_backbone.embeddings.norm",
    "model.text_projection": "text_proj",
    f"{_SWIN}.embeddings.patch_embeddings.projection": "backbone.patch_embed",
    f"{_SWIN}.embeddings.norm": "backbone.patch_norm",
    "model.enc_output": "selection.output",
    "model.enc_output_norm": "selection.norm",
    "model.encoder_output_bbox_embed.layers.0": "selection.box_head.layers.0",
    "model.encoder_output_bbox_embed.layers.1": "selection.box_head.layers.1",
    "model.encoder_output_bbox_embed.layers.2": "selection.box_head.layers.2",
    "model.decoder.layer_norm": "decoder.norm",
    "model.decoder.reference_points_head.layers.0": "decoder.position_head.layers.0",
    "model.decoder.reference_points_head.layers.1": "decoder.position_head.layers.1",
}
# Stages are counted from one; the levels beyond those of the backbone follow on them.
FIRST_STAGE = 1
STAGE = {f"{_SWIN}.hidden_states_norms.stage{{}}": "backbone.norms.{}"}
LATERAL_LEVEL = {
    "model.input_proj_vision.{}.0": "neck.lateral.{}.0",
    "model.input_proj_vision.{}.1": "neck.lateral.{}.1",
}
EXTRA_LEVEL = {
    "model.input_proj_vision.{}.0": "neck.extra.{}.0",
    "model.input_proj_vision.{}.1": "neck.extra.{}.1",
}
BERT_LAYER = {
    f"{_BERT}.encoder.layer.{{}}.attention.self.query": "text_backbone.layers.{}.attention.q_proj",
    f"{_BERT}.encoder.layer.{{}}.attention.self.key": "text_backbone.layers.{}.attention.k_proj",
    f"{_BERT}.encoder.layer.{{}}.attention.self.value": "text_backbone.layers.{}.attention.v_proj",
    f"{_BERT}.encoder.layer.{{}}.attention.output.dense": "text_backbone.layers.{}.attention.out_proj",
    f"{_BERT}.encoder.layer.{{}}.attention.output.LayerNorm": "text_backbone.layers.{}.norm1",
    f"{_BERT}.encoder.layer.{{}}.intermediate.dense": "text_backbone.layers.{}.ffn.fc1",
    f"{_BERT}.encoder.layer.{{}}.output.dense": "text_backbone.layers.{}.ffn.fc2",
    f"{_BERT}.encoder.layer.{{}}.output.LayerNorm": "text_backbone.layers.{}.norm2",
}
SWIN_BLOCK = {
    f"{_SWIN}.encoder.layers.{{}}.blocks.{{}}.layernorm_before": "backbone.stages.{}.blocks.{}.norm1",
    f"{_SWIN}.encoder.layers.{{}}.blocks.{{}}.attention.output.dense": "backbone.stages.{}.blocks.{}.attn.proj",
    f"{_SWIN}.encoder.layers.{{}}.blocks.{{}}.layernorm_after": "backbone.stages.{}.blocks.{}.norm2",
    f"{_SWIN}.encoder.layers.{{}}.blocks.{{}}.intermediate.dense": "backbone.stages.{}.blocks.{}.mlp.fc1",
    f"{_SWIN}.encoder.layers.{{}}.blocks.{{}}.output.dense": "backbone.stages.{}.blocks.{}.mlp.fc2",
}
SWIN_BLOCK_PARAMETERS = {
    f"{_SWIN}.encoder.layers.{{}}.blocks.{{}}.attention.self.relative_position_bias_table": (
        "backbone.stages.{}.blocks.{}.attn.relative_position_bias_table"
    ),
    f"{_SWIN}.encoder.layers.{{}}.blocks.{{}}.attention.self.relative_position_index": (
        "backbone.stages.{}.blocks.{}.attn.relative_position_index"
    ),
}
SWIN_MERGE_PARAMETERS = {
    f"{_SWIN}.encoder.layers.{{}}.downsample.norm.weight": "backbone.merges.{}.norm.weight",
    f"{_SWIN}.encoder.layers.{{}}.downsample.norm.bias": "backbone.merges.{}.norm.bias",
    f"{_SWIN}.encoder.layers.{{}}.downsample.reduction.weight": "backbone.merges.{}.reduction.weight",
}
# Query, key and value of a Swin block, which are one projection here.
SPLIT_QKV = {f"{_SWIN}.encoder.layers.{{}}.blocks.{{}}.attention.self": "backbone.stages.{}.blocks.{}.attn.qkv"}

_FUSION = "model.encoder.layers.{}.fusion_layer"
_TEXT = "model.encoder.layers.{}.text_enhancer_layer"
_IMAGE = "model.encoder.layers.{}.deformable_layer"
ENCODER_LAYER = {
    f"{_FUSION}.layer_norm_vision": "encoder.fusion_layers.{}.norm_image",
    f"{_FUSION}.layer_norm_text": "encoder.fusion_layers.{}.norm_text",
    f"{_FUSION}.attn.vision_proj": "encoder.fusion_layers.{}.attention.image_proj",
    f"{_FUSION}.attn.text_proj": "encoder.fusion_layers.{}.attention.text_proj",
    f"{_FUSION}.attn.values_vision_proj": "encoder.fusion_layers.{}.attention.image_value_proj",
    f"{_FUSION}.attn.values_text_proj": "encoder.fusion_layers.{}.attention.text_value_proj",
    f"{_FUSION}.attn.out_vision_proj": "encoder.fusion_layers.{}.attention.image_out_proj",
    f"{_FUSION}.attn.out_text_proj": "encoder.fusion_layers.{}.attention.text_out_proj",
    f"{_TEXT}.self_attn.query": "encoder.text_layers.{}.self_attn.q_proj",
    f"{_TEXT}.self_attn.key": "encoder.text_layers.{}.self_attn.k_proj",
    f"{_TEXT}.self_attn.value": "encoder.text_layers.{}.self_attn.v_proj",
    f"{_TEXT}.self_attn.out_proj": "encoder.text_layers.{}.self_attn.out_proj",
    f"{_TEXT}.layer_norm_before": "encoder.text_layers.{}.norm1",
    f"{_TEXT}.fc1": "encoder.text_layers.{}.ffn.fc1",
    f"{_TEXT}.fc2": "encoder.text_layers.{}.ffn.fc2",
    f"{_TEXT}.layer_norm_after": "encoder.text_layers.{}.norm2",
    f"{_IMAGE}.self_attn.sampling_offsets": "encoder.layers.{}.self_attn.sampling_offsets",
    f"{_IMAGE}.self_attn.attention_weights": "encoder.layers.{}.self_attn.attention_weights",
    f"{_IMAGE}.self_attn.value_proj": "encoder.layers.{}.self_attn.value_proj",
    f"{_IMAGE}.self_attn.output_proj": "encoder.layers.{}.self_attn.output_proj",
    f"{_IMAGE}.self_attn_layer_norm": "encoder.layers.{}.norm1",
    f"{_IMAGE}.fc1": "encoder.layers.{}.ffn.fc1",
    f"{_IMAGE}.fc2": "encoder.layers.{}.ffn.fc2",
    f"{_IMAGE}.final_layer_norm": "encoder.layers.{}.norm2",
}
ENCODER_LAYER_PARAMETERS = {
    f"{_FUSION}.vision_param": "encoder.fusion_layers.{}.gamma_image",
    f"{_FUSION}.text_param": "encoder.fusion_layers.{}.gamma_text",
}
DECODER_LAYER = {
    "model.decoder.layers.{}.self_attn.query": "decoder.layers.{}.self_attn.q_proj",
    "model.decoder.layers.{}.self_attn.key": "decoder.layers.{}.self_attn.k_proj",
    "model.decoder.layers.{}.self_attn.value": "decoder.layers.{}.self_attn.v_proj",
    "model.decoder.layers.{}.self_attn.out_proj": "decoder.layers.{}.self_attn.out_proj",
    "model.decoder.layers.{}.self_attn_layer_norm": "decoder.layers.{}.self_norm",
    "model.decoder.layers.{}.encoder_attn_text.query": "decoder.layers.{}.text_attn.q_proj",
    "model.decoder.layers.{}.encoder_attn_text.key": "decoder.layers.{}.text_attn.k_proj",
    "model.decoder.layers.{}.encoder_attn_text.value": "decoder.layers.{}.text_attn.v_proj",
    "model.decoder.layers.{}.encoder_attn_text.out_proj": "decoder.layers.{}.text_attn.out_proj",
    "model.decoder.layers.{}.encoder_attn_text_layer_norm": "decoder.layers.{}.text_norm",
    "model.decoder.layers.{}.encoder_attn.sampling_offsets": "decoder.layers.{}.image_attn.sampling_offsets",
    "model.decoder.layers.{}.encoder_attn.attention_weights": "decoder.layers.{}.image_attn.attention_weights",
    "model.decoder.layers.{}.encoder_attn.value_proj": "decoder.layers.{}.image_attn.value_proj",
    "model.decoder.layers.{}.encoder_attn.output_proj": "decoder.layers.{}.image_attn.output_proj",
    "model.decoder.layers.{}.encoder_attn_layer_norm": "decoder.layers.{}.image_norm",
    "model.decoder.layers.{}.fc1": "decoder.layers.{}.ffn.fc1",
    "model.decoder.layers.{}.fc2": "decoder.layers.{}.ffn.fc2",
    "model.decoder.layers.{}.final_layer_norm": "decoder.layers.{}.ffn_norm",
}
# MM-Grounding-DINO only: the biases of the logits.
SELECTION_BIAS = "model.encoder_output_class_embed.bias"
LOGIT_BIAS = ("model.decoder.class_embed.{}.bias", "class_embed.{}.bias")
# One box head; safetensors stores shared tensors once, so that any of these names may be the one in the file.
BOX_HEAD = ("model.decoder.bbox_embed.{}.layers", "bbox_embed.{}.layers")
