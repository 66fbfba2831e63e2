//! `/v1/loads`: how busy the engine is.

use ossia_engine::EngineStats;
use serde::Serialize;

/// The engine's figures after its last step. `num_*_total` count from the start of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loads {
    pub num_running: usize,
    pub num_waiting: usize,
    pub num_blocks_total: usize,
    /// Neither used nor cached.
    pub num_blocks_free: usize,
    /// Held by a running sequence.
    pub num_blocks_used: usize,
    /// Held by nobody, kept for the next request with the same prefix.
    pub num_blocks_cached: usize,
    pub num_steps_total: u64,
    pub num_preemptions_total: u64,
    pub num_prompt_tokens_total: u64,
    pub num_prefix_hit_tokens_total: u64,
    pub num_generation_tokens_total: u64,
    pub num_finished_total: u64,
    pub num_aborted_total: u64,
    pub num_failed_total: u64,
    pub num_rebuilds_total: u64,
}

impl From<EngineStats> for Loads {
    fn from(stats: EngineStats) -> Self {
        Self {
            num_running: stats.num_running,
            num_waiting: stats.num_waiting,
            num_blocks_total: stats.num_blocks_total,
            num_blocks_free: stats.num_blocks_free,
            num_blocks_used: stats.num_blocks_used,
            num_blocks_cached: stats.num_blocks_cached,
            num_steps_total: stats.num_steps_total,
            num_preemptions_total: stats.num_preemptions_total,
            num_prompt_tokens_total: stats.num_prompt_tokens_total,
            num_prefix_hit_tokens_total: stats.num_prefix_hit_tokens_total,
            num_generation_tokens_total: stats.num_generation_tokens_total,
            num_finished_total: stats.num_finished_total,
            num_aborted_total: stats.num_aborted_total,
            num_failed_total: stats.num_failed_total,
            num_rebuilds_total: stats.num_rebuilds_total,
        }
    }
}
