//! Turns of raw text: a prompt of token ids goes on as it stands, without harmony's envelope.

use ossia_engine::{EngineHandle, GenerationRequest};
use ossia_harmony::Tokenizer;

use super::reader::Reader;
use super::run::submit_error;
use super::{Turn, TurnBuilder};
use crate::access::Admission;
use crate::error::ApiError;
use crate::prepare::completions::RawPlan;
use crate::state::AppState;

/// The field that holds the prompt.
const PROMPT: &str = "prompt";

/// One prompt with its parameters, from which its `n` turns are started.
pub(crate) struct RawStarter {
    admission: Admission,
    engine: EngineHandle,
    tokenizer: Tokenizer,
    plan: RawPlan,
    prompt: Vec<u32>,
}

impl RawStarter {
    /// Checks the prompt's length.
    ///
    /// # Errors
    /// 400 if it leaves no room for an answer.
    pub(crate) fn new(
        state: &AppState,
        admission: Admission,
        plan: RawPlan,
        prompt: Vec<u32>,
    ) -> Result<Self, ApiError> {
        let (engine, tokenizer) = (state.engine().clone(), state.tokenizer().clone());
        let (len, max) = (prompt.len(), engine.config().max_model_len);
        if len >= max {
            return Err(ApiError::ContextLength { param: PROMPT, len, max });
        }
        admission.note_prompt(&prompt);
        Ok(Self { admission, engine, tokenizer, plan, prompt })
    }

    /// Starts the turn of answer `index`. Each answer of a seeded request has a seed of its own.
    ///
    /// # Errors
    /// 400 for what the engine refuses, 503 when it is full or gone.
    pub(crate) fn start(&self, index: usize) -> Result<Turn, ApiError> {
        let (plan, caller) = (&self.plan, self.admission.caller());
        let mut sampling = plan.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(index as u64));
        let stop_token_ids = [&self.tokenizer.stop_token_ids()[..], &plan.stop_token_ids].concat();
        let request = GenerationRequest {
            prompt: self.prompt.clone(),
            sampling,
            max_tokens: plan.max_tokens.min(self.admission.max_output_tokens()),
            stop_token_ids: stop_token_ids.clone(),
            priority: caller.priority(plan.priority),
            tenant: caller.tenant_number(),
            cache_salt: caller.cache_salt(plan.cache_salt.as_deref()),
            constraint: None,
        };
        let generation = self.engine.submit(request).map_err(|error| submit_error(PROMPT, error))?;
        let reader = Reader::raw(self.tokenizer.clone(), plan.skip_special_tokens);
        let builder =
            TurnBuilder::with_reader(reader, self.tokenizer.clone(), plan.stop.clone(), stop_token_ids);
        Ok(Turn::new(generation, builder, self.admission.clone()))
    }
}
