//! The arithmetic of gpt-oss: one op per file, CPU, CUDA and Metal side by side.
