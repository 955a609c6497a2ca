//! GGUF files to checked, typed, memory-mapped views. Hostile input dies here.
