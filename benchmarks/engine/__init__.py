"""The engine beside llama.cpp, transformers and peft; one small file a measure."""
