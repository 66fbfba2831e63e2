//! One request inside the engine: its tokens, its blocks, its sampler.

use ossia_model::{BlockTable, Draw};

use crate::block_hash::HashChain;
use crate::prompt_lookup::PromptLookup;
use crate::sampler::{SampleError, SequenceSampler};
use crate::{FinishReason, GenerationRequest};

/// Names a sequence for as long as the engine lives; later arrivals have higher ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SequenceId(pub(crate) u64);

/// The order in which sequences are served: priority, then arrival. The least is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    priority: i32,
    id: SequenceId,
}

impl Rank {
    pub(crate) fn priority(self) -> i32 {
        self.priority
    }
}

/// Whose sequence it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TenantId(pub(crate) u32);

/// Blocks of a sequence in both groups of layers. Both tables end at the same block.
#[derive(Debug, Default)]
pub(crate) struct BlockTables {
    /// Every block from the first on.
    pub(crate) full: BlockTable,
    /// The blocks that the window still needs.
    pub(crate) sliding: BlockTable,
}

/// One request inside the engine.
///
/// `token_ids` only grows: the prompt, then what was generated. `num_cached_tokens` of them have their
/// keys and values in the blocks; preemption sets it back to 0 and nothing else, so that a resumed
/// sequence computes its generated tokens as if they had been prompt.
#[derive(Debug)]
pub(crate) struct Sequence {
    rank: Rank,
    tenant: TenantId,
    token_ids: Vec<u32>,
    num_prompt_tokens: usize,
    max_tokens: usize,
    stop_token_ids: Vec<u32>,
    pub(crate) num_cached_tokens: usize,
    /// Tokens of the pass, those of the draft included.
    pub(crate) num_scheduled_tokens: usize,
    /// Tokens that were counted for the tenant.
    pub(crate) num_charged_tokens: usize,
    /// Of these, draft tokens: guesses behind `token_ids`, whose keys and values are overwritten when wrong.
    pub(crate) num_scheduled_drafts: usize,
    /// Whether the next token is drawn where the logits are.
    pub(crate) is_drawn: bool,
    pub(crate) tables: BlockTables,
    pub(crate) hash_chain: HashChain,
    /// Lengths, in blocks, of prefixes that later requests are likely to share: their window is kept.
    pub(crate) checkpoints: Vec<usize>,
    sampler: SequenceSampler,
    lookup: PromptLookup,
    /// What may come after `token_ids`; empty unless the sequence is decoding.
    draft: Vec<u32>,
}

impl Sequence {
    /// A sequence with no blocks. `request` has been validated: its prompt is not empty and shorter
    /// than `max_model_len`.
    pub(crate) fn new(
        id: SequenceId,
        request: GenerationRequest,
        block_size: usize,
        max_model_len: usize,
    ) -> Self {
        let num_prompt_tokens = request.prompt.len();
        let mut hash_chain = HashChain::new(block_size, request.cache_salt.as_deref());
        hash_chain.extend(&request.prompt);
        Self {
            rank: Rank { priority: request.priority, id },
            tenant: TenantId(request.tenant),
            num_prompt_tokens,
            max_tokens: request.max_tokens.min(max_model_len - num_prompt_tokens),
            sampler: SequenceSampler::new(request.sampling, request.constraint, &request.prompt),
            token_ids: request.prompt,
            stop_token_ids: request.stop_token_ids,
            num_cached_tokens: 0,
            num_scheduled_tokens: 0,
            num_charged_tokens: 0,
            num_scheduled_drafts: 0,
            is_drawn: false,
            tables: BlockTables::default(),
            hash_chain,
            checkpoints: vec![num_prompt_tokens / block_size],
            lookup: PromptLookup::default(),
            draft: Vec::new(),
        }
    }

    /// The sequence, with drafts of at most `num_tokens` tokens.
    pub(crate) fn with_drafts(self, num_tokens: usize) -> Self {
        Self { lookup: PromptLookup::new(num_tokens), ..self }
    }

    pub(crate) fn id(&self) -> SequenceId {
        self.rank.id
    }

    pub(crate) fn rank(&self) -> Rank {
        self.rank
    }

    pub(crate) fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// The prompt and what was generated.
    pub(crate) fn token_ids(&self) -> &[u32] {
        &self.token_ids
    }

    pub(crate) fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }

    pub(crate) fn num_prompt_tokens(&self) -> usize {
        self.num_prompt_tokens
    }

    pub(crate) fn num_generated_tokens(&self) -> usize {
        self.token_ids.len() - self.num_prompt_tokens
    }

    /// Tokens to compute before the next one can be sampled.
    pub(crate) fn num_remaining_tokens(&self) -> usize {
        self.token_ids.len() - self.num_cached_tokens
    }

    /// Whether only the token sampled last is left to compute.
    pub(crate) fn is_decoding(&self) -> bool {
        self.num_remaining_tokens() == 1 && self.num_generated_tokens() > 0
    }

    /// Whether the scheduled tokens reach the end, so that the pass yields logits to sample from.
    pub(crate) fn samples_after_this_pass(&self) -> bool {
        let num_known = self.num_scheduled_tokens - self.num_scheduled_drafts;
        num_known > 0 && num_known == self.num_remaining_tokens()
    }

    /// Whether the next token can be drawn without its logits being seen here.
    pub(crate) fn can_be_drawn(&self) -> bool {
        self.num_scheduled_drafts == 0 && self.sampler.can_be_drawn()
    }

    /// How the next token is drawn, of a sequence that can be.
    pub(crate) fn plan_draw(&mut self, vocab_size: usize) -> Result<Draw, SampleError> {
        let count = self.num_generated_tokens();
        self.sampler.plan_draw(count, &self.stop_token_ids, vocab_size)
    }

    /// Guesses at the tokens to come.
    pub(crate) fn draft(&self) -> &[u32] {
        &self.draft
    }

    /// How many of the first `draft_len` tokens of the draft are expected to be right.
    pub(crate) fn expected_right(&self, draft_len: usize) -> f64 {
        self.lookup.expected_right(draft_len)
    }

    /// Guesses again, after the tokens of a pass: no more than the sequence may still have after the next one.
    pub(crate) fn renew_draft(&mut self) {
        let num_left = self.max_tokens - self.num_generated_tokens().min(self.max_tokens);
        self.draft = self.lookup.draft(&self.token_ids, num_left.saturating_sub(1));
    }

    /// Takes note that the scheduled drafts were verified and the first `num_right` of them right.
    pub(crate) fn note_drafts(&mut self, num_right: usize) {
        self.lookup.note(std::mem::take(&mut self.num_scheduled_drafts), num_right);
    }

    pub(crate) fn stop_token_ids_and_sampler(&mut self) -> (&[u32], &mut SequenceSampler) {
        (&self.stop_token_ids, &mut self.sampler)
    }

    pub(crate) fn sampler_mut(&mut self) -> &mut SequenceSampler {
        &mut self.sampler
    }

    /// Whether the token after this pass is held to something that can be computed while the pass runs.
    pub(crate) fn wants_to_prepare(&self) -> bool {
        self.samples_after_this_pass() && self.sampler.wants_to_prepare()
    }

    pub(crate) fn append_token(&mut self, token_id: u32) {
        self.token_ids.push(token_id);
        self.hash_chain.extend(&self.token_ids);
    }

    /// Why the sequence ends with the token generated last, if it does.
    pub(crate) fn finish_reason(&self) -> Option<FinishReason> {
        let last = self.token_ids.last().filter(|_| self.num_generated_tokens() > 0)?;
        if self.stop_token_ids.contains(last) {
            return Some(FinishReason::Stop);
        }
        (self.num_generated_tokens() >= self.max_tokens).then_some(FinishReason::Length)
    }
}
