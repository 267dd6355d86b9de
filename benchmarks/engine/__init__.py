"""Engine benchmark beside peers, transformers and peft; one file per measure."""
