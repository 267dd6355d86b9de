"""Files of llama.cpp in other formats than the packaged one, by gguf's own quantisation."""

from pathlib import Path

import gguf
import numpy as np


def requantise(source: Path, target: Path, kind: str) -> None:
    """Write a copy of a file whose matrices are in another format.

    The embedding keeps its 8 bits, as llama.cpp's own quantisation keeps it wider than the rest.

    Args:
        source: File of llama.cpp, of 4-bit matrices and an 8-bit embedding.
        target: New file.
        kind: ``Q4_0``, ``Q4_1`` or ``Q8_0``.
    """
    wanted = gguf.GGMLQuantizationType[kind]
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    scratch = target.with_suffix(".partial")
    writer = gguf.GGUFWriter(scratch, architecture)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in {"general.architecture", "general.file_type"}:
            continue
        array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(
            key, field.contents(), field.types[0], field.types[1] if array else None
        )
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    for tensor in reader.tensors:
        stays = gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0, wanted
        if tensor.tensor_type in stays:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
            continue
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    scratch.replace(target)
