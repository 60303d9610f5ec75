"""Writes the DeformConv operators of a graph as GridSample and a matrix product, for runtimes that lack them."""

import onnx
from onnx import NodeProto, helper, parser

# Inputs and outputs as of the operator, with a bias: x [B, C, H, W], kernel [O, C / groups, kh, kw], offsets
# [B, G * T * 2, h, w] (y, x), weights [B, G * T, h, w], with T = kh * kw taps and G groups of offsets.
_BODY = """
<ir_version: 10, opset_import: ["": 19]>
deform_conv (float[b, c, p, q] x, float k, float o, float bias, float m) => (float out) {{
    zero = Constant <value_ints: ints = [0]> ()
    one = Constant <value_ints: ints = [1]> ()
    last = Constant <value_ints: ints = [-1]> ()
    first = Constant <value_int = 0> ()
    second = Constant <value_int = 1> ()
    half = Constant <value_float = 0.5> ()
    unit = Constant <value_float = 1.0> ()
    two = Constant <value_float = 2.0> ()
    batch = Shape <start: int = 0, end: int = 1> (x)
    sides = Shape <start: int = 2> (x)
    out_sides = Shape <start: int = 2> (o)
    places = ReduceProd <keepdims: int = 1> (out_sides)

    split = Constant <value_ints: ints = [-1, {taps}, 2]> ()
    split_sides = Concat <axis: int = 0> (split, out_sides)
    moves = Reshape (o, split_sides)
    rows = Gather <axis: int = 0> (out_sides, first)
    columns = Gather <axis: int = 0> (out_sides, second)
    row_numbers = Range (first, rows, second)
    column_numbers = Range (first, columns, second)
    row_floats = Cast <to: int = 1> (row_numbers)
    column_floats = Cast <to: int = 1> (column_numbers)
    row_step = Constant <value_float = {stride_y}> ()
    column_step = Constant <value_float = {stride_x}> ()
    row_starts = Mul (row_floats, row_step)
    column_starts = Mul (column_floats, column_step)
    row_axis = Unsqueeze (row_starts, one)
    tap_sides = Constant <value_ints: ints = [{taps}, 1, 1]> ()
    flat_tap_rows = Constant <value_floats: floats = [{tap_rows}]> ()
    flat_tap_columns = Constant <value_floats: floats = [{tap_columns}]> ()
    tap_rows = Reshape (flat_tap_rows, tap_sides)
    tap_columns = Reshape (flat_tap_columns, tap_sides)
    own_rows = Add (row_axis, tap_rows)
    own_columns = Add (column_starts, tap_columns)
    move_rows = Gather <axis: int = 2> (moves, first)
    move_columns = Gather <axis: int = 2> (moves, second)
    y_cells = Add (move_rows, own_rows)
    x_cells = Add (move_columns, own_columns)
    heights = Cast <to: int = 1> (sides)
    height = Gather <axis: int = 0> (heights, first)
    width = Gather <axis: int = 0> (heights, second)
    y_half = Add (y_cells, half)
    x_half = Add (x_cells, half)
    y_double = Mul (y_half, two)
    x_double = Mul (x_half, two)
    y_share = Div (y_double, height)
    x_share = Div (x_double, width)
    y = Sub (y_share, unit)
    x_ = Sub (x_share, unit)
    y_last = Unsqueeze (y, last)
    x_last = Unsqueeze (x_, last)
    grid = Concat <axis: int = -1> (x_last, y_last)
    grid_shape = Constant <value_ints: ints = [0, {taps}, -1, 2]> ()
    grids = Reshape (grid, grid_shape)

    groups = Constant <value_ints: ints = [{offset_groups}]> ()
    maps_count = Mul (batch, groups)
    maps_shape = Concat <axis: int = 0> (maps_count, last, sides)
    maps = Reshape (x, maps_shape)
    samples = GridSample <align_corners: int = 0, mode: string = "bilinear", padding_mode: string = "zeros"> (
        maps, grids)
    taps = Constant <value_ints: ints = [1, {taps}]> ()
    scales_shape = Concat <axis: int = 0> (maps_count, taps, places)
    scales = Reshape (m, scales_shape)
    scaled = Mul (samples, scales)
    kernel_groups = Constant <value_ints: ints = [{groups}]> ()
    depth_sides = Shape <start: int = 1> (k)
    depth = ReduceProd <keepdims: int = 1> (depth_sides)
    read_shape = Concat <axis: int = 0> (batch, kernel_groups, depth, places)
    read = Reshape (scaled, read_shape)
    kernels_shape = Concat <axis: int = 0> (kernel_groups, last, depth)
    kernels = Reshape (k, kernels_shape)
    product = MatMul (kernels, read)
    out_shape = Concat <axis: int = 0> (batch, last, out_sides)
    product_maps = Reshape (product, out_shape)
    bias_shape = Constant <value_ints: ints = [1, -1, 1, 1]> ()
    biases = Reshape (bias, bias_shape)
    out = Add (product_maps, biases)
}}
"""


def without_deform_conv(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with each DeformConv replaced, in place; the same function within float32 rounding."""
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes += _written(node) if node.op_type == "DeformConv" else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _written(node: NodeProto) -> list[NodeProto]:
    """The nodes that compute what `node` does, under names that begin with its own."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    rows, columns = attributes["kernel_shape"]
    taps = [(row, column) for row in range(rows) for column in range(columns)]
    top, left = attributes.get("pads", [0] * 4)[:2]
    strides = attributes.get("strides", [1, 1])
    graph = parser.parse_model(
        _BODY.format(
            taps=len(taps),
            tap_rows=", ".join(f"{row - top:.1f}" for row, _ in taps),
            tap_columns=", ".join(f"{column - left:.1f}" for _, column in taps),
            stride_y=f"{strides[0]:.1f}",
            stride_x=f"{strides[1]:.1f}",
            groups=attributes.get("group", 1),
            offset_groups=attributes.get("offset_group", 1),
        )
    ).graph
    outer = dict(zip((value.name for value in graph.input), node.input, strict=True)) | {"out": node.output[0]}
    for number, inner in enumerate(graph.node):
        inner.name = f"{node.name}/{inner.op_type}_{number}"
        for names in (inner.input, inner.output):
            names[:] = [outer.get(name, f"{node.output[0]}/{name}") for name in names]
    return list(graph.node)
