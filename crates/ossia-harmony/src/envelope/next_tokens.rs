//! From the legal next bytes to the legal next tokens.

use super::language::{Language, Symbol};
use crate::Tokenizer;

/// Puts into `ids` every token that is a way through `language` from `node`, in ascending order.
///
/// Any cut of a header's text into tokens is legal, the tokenizer's own and all others. The vocabulary is searched
/// in its sorted order: each byte narrows the range of tokens that begin so, until none is left, which is soon.
pub(super) fn collect(tokenizer: &Tokenizer, language: &Language, node: u32, ids: &mut Vec<u32>) {
    ids.clear();
    for (symbol, _) in language.edges(node) {
        if let Symbol::Special(token) = symbol {
            ids.push(tokenizer.special(token));
        }
    }
    let search = Search { tokenizer, language };
    search.descend(node, 0, tokenizer.vocab().sorted(), ids);
    ids.sort_unstable();
}

struct Search<'a> {
    tokenizer: &'a Tokenizer,
    language: &'a Language,
}

impl Search<'_> {
    /// `range` holds the tokens whose first `depth` bytes lead to `node`.
    fn descend(&self, node: u32, depth: usize, range: &[u32], ids: &mut Vec<u32>) {
        for (symbol, to) in self.language.edges(node) {
            let Symbol::Byte(byte) = symbol else { continue };
            let mut range = self.narrow(range, depth, byte);
            while let Some((&id, rest)) = range.split_first()
                && self.tokenizer.token_bytes(id).len() == depth + 1
            {
                ids.push(id);
                range = rest;
            }
            if !range.is_empty() {
                self.descend(to, depth + 1, range, ids);
            }
        }
    }

    /// The tokens of `range` whose byte at `depth` is `byte`; all of them are longer than `depth`.
    fn narrow<'r>(&self, range: &'r [u32], depth: usize, byte: u8) -> &'r [u32] {
        let byte_of = |id: &u32| self.tokenizer.token_bytes(*id)[depth];
        let range = &range[range.partition_point(|id| byte_of(id) < byte)..];
        &range[..range.partition_point(|id| byte_of(id) == byte)]
    }
}
