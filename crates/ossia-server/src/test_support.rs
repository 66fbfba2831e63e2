//! What unit tests share: the vocabulary.

#[path = "../tests/common/tokenizer.rs"]
mod tokenizer;

pub(crate) use tokenizer::small;
