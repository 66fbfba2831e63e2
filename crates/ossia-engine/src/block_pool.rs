//! The pool of physical blocks: who holds them, which can be found again, which go first.

use std::collections::{BTreeMap, HashMap};

use crate::block_hash::BlockHash;

/// The two groups of layers. They take blocks from one pool, but a block's content belongs to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LayerGroup {
    Full,
    Sliding,
}

/// What a block can be found by.
pub(crate) type CacheKey = (LayerGroup, BlockHash);

/// Place in the order of eviction, least first: blocks not worth keeping, then least recently used.
type EvictionOrder = (bool, u64);

#[derive(Clone, Debug, Default)]
struct Block {
    ref_count: u32,
    key: Option<CacheKey>,
    keep: bool,
    order: EvictionOrder,
}

/// All blocks. Each is exactly one of: free (no holder, no content), used (held by some sequence's block
/// table, `ref_count` times) or cached (no holder, findable by its key, evicted when blocks run out).
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    free: Vec<u32>,
    evictable: BTreeMap<EvictionOrder, u32>,
    by_key: HashMap<CacheKey, u32>,
    num_used: usize,
    /// Counts releases; stands in for the time.
    num_releases: u64,
}

impl BlockPool {
    pub(crate) fn new(num_blocks: usize) -> Self {
        let num_ids = u32::try_from(num_blocks).unwrap_or(u32::MAX);
        Self {
            blocks: vec![Block::default(); num_ids as usize],
            free: (0..num_ids).rev().collect(),
            evictable: BTreeMap::new(),
            by_key: HashMap::new(),
            num_used: 0,
            num_releases: 0,
        }
    }

    pub(crate) fn num_total(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn num_free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn num_cached(&self) -> usize {
        self.evictable.len()
    }

    pub(crate) fn num_used(&self) -> usize {
        self.num_used
    }

    /// Blocks that `take` could give.
    pub(crate) fn num_available(&self) -> usize {
        self.free.len() + self.evictable.len()
    }

    /// A block without content, held once; the first in the order of eviction when none is free.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let id = self.free.pop().or_else(|| self.evict())?;
        self.block_mut(id).ref_count = 1;
        self.num_used += 1;
        Some(id)
    }

    fn evict(&mut self) -> Option<u32> {
        let (_, id) = self.evictable.pop_first()?;
        self.forget(id);
        Some(id)
    }

    /// The block with this content, held or cached.
    pub(crate) fn find(&self, key: &CacheKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// Whether no sequence holds the block.
    pub(crate) fn is_evictable(&self, id: u32) -> bool {
        self.blocks[id as usize].ref_count == 0
    }

    /// Holds a block once more.
    pub(crate) fn hold(&mut self, id: u32) {
        let block = self.block_mut(id);
        block.ref_count += 1;
        if block.ref_count == 1 {
            let order = block.order;
            self.evictable.remove(&order);
            self.num_used += 1;
        }
    }

    /// Lets go of a block once. `keep` says that its content is likely to be wanted again.
    pub(crate) fn release(&mut self, id: u32, keep: bool) {
        self.num_releases += 1;
        let stamp = self.num_releases;
        let block = self.block_mut(id);
        debug_assert!(block.ref_count > 0, "block {id} is released by somebody who does not hold it");
        block.ref_count -= 1;
        block.keep |= keep;
        block.order = (block.keep, stamp);
        if block.ref_count > 0 {
            return;
        }
        if block.key.is_some() {
            let order = block.order;
            self.evictable.insert(order, id);
        } else {
            *block = Block::default();
            self.free.push(id);
        }
        self.num_used -= 1;
    }

    /// Makes a held block findable. Of two blocks with the same content, the one in use stays findable.
    pub(crate) fn register(&mut self, id: u32, key: CacheKey) {
        debug_assert!(self.blocks[id as usize].key.is_none(), "block {id} has content already");
        if let Some(twin) = self.find(&key) {
            if !self.is_evictable(twin) {
                return;
            }
            let order = self.blocks[twin as usize].order;
            self.evictable.remove(&order);
            self.forget(twin);
            self.free.push(twin);
        }
        self.by_key.insert(key, id);
        self.block_mut(id).key = Some(key);
    }

    /// Counts a cached block as used just now.
    pub(crate) fn touch(&mut self, id: u32) {
        if self.is_evictable(id) && self.blocks[id as usize].key.is_some() {
            self.hold(id);
            self.release(id, true);
        }
    }

    /// Drops a block's content.
    fn forget(&mut self, id: u32) {
        let block = std::mem::take(self.block_mut(id));
        if let Some(key) = block.key {
            self.by_key.remove(&key);
        }
    }

    fn block_mut(&mut self, id: u32) -> &mut Block {
        &mut self.blocks[id as usize]
    }
}

#[cfg(test)]
impl BlockPool {
    /// Panics unless every block is in exactly one place and is held exactly as often as `holders` says.
    pub(crate) fn assert_consistent(&self, holders: &HashMap<u32, u32>) {
        let mut num_used = 0;
        let free: std::collections::HashSet<u32> = self.free.iter().copied().collect();
        assert_eq!(free.len(), self.free.len(), "a block is free twice");
        for (id, block) in (0u32..).zip(&self.blocks) {
            let held = holders.get(&id).copied().unwrap_or(0);
            assert_eq!(block.ref_count, held, "holders of block {id}");
            let cached = self.evictable.get(&block.order) == Some(&id);
            let places = [held > 0, free.contains(&id), cached];
            assert_eq!(places.iter().filter(|&&is| is).count(), 1, "block {id}: {places:?}");
            assert_eq!(cached, held == 0 && block.key.is_some(), "block {id}: {block:?}");
            num_used += usize::from(held > 0);
        }
        assert_eq!(num_used, self.num_used);
        assert_eq!(self.free.len() + self.evictable.len() + num_used, self.blocks.len());
        for (key, &id) in &self.by_key {
            assert_eq!(self.blocks[id as usize].key, Some(*key), "block {id}");
        }
    }
}
