"""Engine benchmark beside llama.cpp, transformers and peft; one file per measure."""
