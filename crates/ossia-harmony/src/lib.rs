//! The harmony prompt format: tokenizer, render, total streaming parser, envelope grammar.
