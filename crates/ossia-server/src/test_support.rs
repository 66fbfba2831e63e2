//! What unit tests share: the real vocabulary.

#[path = "../tests/common/tokenizer.rs"]
mod tokenizer;

pub(crate) use tokenizer::o200k;
