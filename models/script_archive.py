"""Reads the tensors of a TorchScript archive (the container of OpenAI's files) without executing it.

The archive is a zip: `data.pkl` describes the modules, `data/` holds the storages, `code/` is ignored.
"""

import zipfile
from pathlib import Path
from typing import Any

from models.pickle_records import Name, Record
from models.stored_arrays import Array
from models.tensor_records import StoredTensor, TensorReader
from models.torch_archive import ZipArchive, faults_named

# Limits for modules that contain one another, or themselves.
MAX_MODULES, MAX_NAME = 20_000, 1_000
LIST_BUILDERS = frozenset(
    {"build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag"}
)


class _ScriptReader(TensorReader):
    """Reads scripted modules as records, beside tensors."""

    def name(self, module: str, name: str) -> Name:
        if module == "__torch__" or module.startswith("__torch__."):
            return Name("__torch__", name)
        if module == "torch.jit._pickle" and name in LIST_BUILDERS:
            return Name(module, name, lambda *values: values[0] if values else None)
        return super().name(module, name)


def read_script_archive(path: Path) -> dict[str, Array]:
    """Read the archive's tensors by dotted attribute name, of their stored type."""
    with faults_named(path, "TorchScript archive"), zipfile.ZipFile(path) as archive:
        script = ZipArchive(archive, reader=_ScriptReader())
        return script.tensors(_named_tensors(script.root))


def _named_tensors(root: Any) -> dict[str, StoredTensor]:
    """Every tensor under `root` by its dotted path; a module reached twice has both names."""
    found: dict[str, StoredTensor] = {}
    waiting: list[tuple[str, Any]] = [("", root)]
    for _ in range(MAX_MODULES):
        if not waiting:
            return found
        prefix, module = waiting.pop()
        if len(prefix) > MAX_NAME:
            raise ValueError(f"a name of more than {MAX_NAME} letters: {prefix[:60]}...")
        attributes = {} if _is_module(module) and module.state is None else getattr(module, "state", None)
        if not _is_module(module) or not isinstance(attributes, dict):
            raise ValueError(f"{prefix or 'the root'} is no module")
        for name, value in attributes.items():
            if isinstance(value, StoredTensor):
                found[f"{prefix}{name}"] = value
            elif _is_module(value):
                waiting.append((f"{prefix}{name}.", value))
    raise ValueError(f"more than {MAX_MODULES} modules")


def _is_module(value: Any) -> bool:
    return isinstance(value, Record) and value.name.module == "__torch__"
