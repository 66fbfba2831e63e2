//! Names for blocks by content: the hash chain of a sequence's tokens.

use sha2::{Digest, Sha256};

/// Names the tokens of a block and all tokens before it.
///
/// SHA-256, so that no prompt can be made to look like another one: a block found by its hash holds the
/// keys and values of exactly these tokens, and needs no second check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlockHash([u8; 32]);

impl BlockHash {
    /// The start of a chain. Chains with different salts share no hash.
    pub(crate) fn root(cache_salt: Option<&str>) -> Self {
        let mut hasher = Sha256::new();
        if let Some(salt) = cache_salt {
            hasher.update(b"salt:");
            hasher.update(salt.as_bytes());
        }
        Self(hasher.finalize().into())
    }

    /// The next link: the hash of a block that holds `token_ids` and follows `self`.
    pub(crate) fn chain(&self, token_ids: &[u32]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        for id in token_ids {
            hasher.update(id.to_le_bytes());
        }
        Self(hasher.finalize().into())
    }
}

/// The hashes of a sequence's full blocks, kept as the sequence grows.
#[derive(Debug)]
pub(crate) struct HashChain {
    block_size: usize,
    root: BlockHash,
    hashes: Vec<BlockHash>,
}

impl HashChain {
    pub(crate) fn new(block_size: usize, cache_salt: Option<&str>) -> Self {
        Self { block_size, root: BlockHash::root(cache_salt), hashes: Vec::new() }
    }

    /// Hashes the blocks that `token_ids`, the sequence so far, has filled since the last call.
    pub(crate) fn extend(&mut self, token_ids: &[u32]) {
        let new = &token_ids[self.hashes.len() * self.block_size..];
        for block in new.chunks_exact(self.block_size) {
            let parent = self.hashes.last().unwrap_or(&self.root);
            self.hashes.push(parent.chain(block));
        }
    }

    /// Hashes of the full blocks, in order.
    pub(crate) fn hashes(&self) -> &[BlockHash] {
        &self.hashes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(salt: Option<&str>, tokens: &[u32]) -> Vec<BlockHash> {
        let mut chain = HashChain::new(2, salt);
        chain.extend(tokens);
        chain.hashes().to_vec()
    }

    #[test]
    fn only_full_blocks_are_hashed_and_growth_changes_nothing() {
        assert_eq!(hashes(None, &[1]).len(), 0);
        let mut grown = HashChain::new(2, None);
        for len in 0..=5 {
            grown.extend(&[1, 2, 3, 4, 5][..len]);
        }
        assert_eq!(grown.hashes(), hashes(None, &[1, 2, 3, 4]));
    }

    #[test]
    fn a_hash_names_the_block_its_past_and_the_salt() {
        let base = hashes(None, &[1, 2, 3, 4]);
        assert_ne!(base[1], hashes(None, &[9, 2, 3, 4])[1], "another past");
        assert_ne!(base[1], hashes(None, &[3, 4])[0], "the same tokens elsewhere");
        assert_ne!(base[0], hashes(Some(""), &[1, 2])[0], "an empty salt is a salt");
        assert_ne!(hashes(Some("a"), &[1, 2])[0], hashes(Some("b"), &[1, 2])[0]);
    }
}
