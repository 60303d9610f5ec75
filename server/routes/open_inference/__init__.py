"""The Open Inference Protocol (KServe's v2) over HTTP, with the binary tensor extension.

Specification: kserve/open-inference-protocol, specification/protocol/inference_rest.md; the extension:
triton-inference-server/server, docs/protocol/extension_binary_data.md.
"""
