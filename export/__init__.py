"""Models to bundles: ONNX graphs, TensorRT engines, and the certificates that hold them to PyTorch."""


class ExportError(ValueError):
    """An export that cannot be done as asked; the message names the value and what is accepted."""
