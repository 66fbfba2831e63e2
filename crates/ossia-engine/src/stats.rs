//! Figures that the engine publishes after each step.

/// A snapshot of the engine, taken between two steps. The `num_*_total` figures only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Sequences that hold blocks.
    pub num_running: usize,
    /// Sequences that wait for blocks or for a place.
    pub num_waiting: usize,
    /// Blocks of the pool.
    pub num_blocks_total: usize,
    /// Blocks with no content.
    pub num_blocks_free: usize,
    /// Blocks that some sequence holds.
    pub num_blocks_used: usize,
    /// Blocks that no sequence holds and that a later prompt may find again.
    pub num_blocks_cached: usize,
    /// Forward passes.
    pub num_steps_total: u64,
    /// Tokens computed in forward passes, recomputed ones included.
    pub num_computed_tokens_total: u64,
    /// Sequences that gave up their blocks to others.
    pub num_preemptions_total: u64,
    /// Prompt tokens of admitted requests.
    pub num_prompt_tokens_total: u64,
    /// Of these, tokens found in the prefix cache.
    pub num_prefix_hit_tokens_total: u64,
    /// Tokens sampled.
    pub num_generation_tokens_total: u64,
    /// Draft tokens that were verified.
    pub num_draft_tokens_total: u64,
    /// Of these, tokens that the model said itself.
    pub num_accepted_tokens_total: u64,
    /// Requests that ended with a stop token or at their length.
    pub num_finished_total: u64,
    /// Requests whose caller went away.
    pub num_aborted_total: u64,
    /// Requests that the engine could not carry on.
    pub num_failed_total: u64,
    /// Times that the engine started over after a panic.
    pub num_rebuilds_total: u64,
}

impl EngineStats {
    /// Whether every block is accounted for once; asserted whenever the engine is idle.
    pub fn blocks_add_up(&self) -> bool {
        self.num_blocks_free + self.num_blocks_used + self.num_blocks_cached == self.num_blocks_total
    }
}
