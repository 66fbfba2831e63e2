//! Starting a turn and following it.

use std::collections::VecDeque;
use std::time::Duration;

use ossia_engine::{EngineHandle, Generation, GenerationRequest, SubmitError};
use ossia_harmony::{
    Conversation, EnvelopeGrammar, EnvelopeOptions, GrammarScope, SpecialToken, Tokenizer, TurnGrammar,
};

use super::constraint::TurnConstraint;
use super::meter::TurnMeter;
use super::truncate::truncated;
use super::{TurnBuilder, TurnEvent};
use crate::access::Admission;
use crate::error::ApiError;
use crate::prepare::TurnPlan;
use crate::state::AppState;

/// A rendered request, from which its `n` turns are started.
pub(crate) struct TurnStarter {
    admission: Admission,
    engine: EngineHandle,
    tokenizer: Tokenizer,
    plan: TurnPlan,
    prompt: Vec<u32>,
    grammar: TurnGrammar,
    /// Messages whose schema could not be compiled and did not have to be.
    relaxed: Vec<GrammarScope>,
}

/// A turn under way. Dropping it aborts the generation.
pub(crate) struct Turn {
    generation: Option<Generation>,
    meter: TurnMeter,
    /// Longest wait for the engine to take the turn up.
    max_queue: Option<Duration>,
    builder: TurnBuilder,
    ready: VecDeque<TurnEvent>,
}

impl TurnStarter {
    /// Renders the prompt and compiles the grammar of the turn.
    ///
    /// # Errors
    /// 400 if the prompt leaves no room for an answer, a function's name cannot stand in a header, or a schema cannot
    /// be compiled.
    pub(crate) async fn new(
        state: &AppState,
        admission: Admission,
        plan: TurnPlan,
    ) -> Result<Self, ApiError> {
        let (engine, tokenizer) = (state.engine().clone(), state.tokenizer().clone());
        let prompt = prompt_of(state, &plan)?;
        admission.note_prompt(&prompt);
        let envelope =
            EnvelopeGrammar::new(&tokenizer, &envelope(&plan, state.vocab_size())).map_err(|error| {
                ApiError::invalid("tools", "invalid_value", format!("Invalid 'tools': {error}."))
            })?;
        let mut contents = Vec::with_capacity(plan.rules.len());
        let mut relaxed = Vec::new();
        for rule in &plan.rules {
            let (grammar, is_exact) = state.grammars().of_rule(rule).await?;
            contents.push((rule.scope.clone(), grammar));
            relaxed.extend((!is_exact).then(|| rule.scope.clone()));
        }
        let grammar = TurnGrammar::new(envelope, contents);
        let grammar = match plan.max_reasoning_tokens {
            Some(max) => grammar.with_max_reasoning_tokens(max),
            None => grammar,
        };
        Ok(Self { admission, engine, tokenizer, plan, prompt, grammar, relaxed })
    }

    /// Whether calls to this recipient are not held to their schema, since it could not be compiled.
    pub(crate) fn is_relaxed(&self, recipient: String) -> bool {
        self.relaxed.contains(&GrammarScope::Call(recipient))
    }

    /// Starts the turn of answer `index`. Each answer of a seeded request has a seed of its own.
    ///
    /// # Errors
    /// 400 for what the engine refuses, 503 when it is full or gone.
    pub(crate) fn start(&self, index: usize) -> Result<Turn, ApiError> {
        let (plan, caller) = (&self.plan, self.admission.caller());
        let room = self.engine.config().max_model_len - self.prompt.len();
        let mut sampling = plan.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(index as u64));
        let request = GenerationRequest {
            prompt: self.prompt.clone(),
            sampling,
            max_tokens: plan.max_tokens.unwrap_or(room).min(room).min(self.admission.max_output_tokens()),
            stop_token_ids: [&self.tokenizer.stop_token_ids()[..], &plan.stop_token_ids].concat(),
            priority: caller.priority(plan.priority),
            tenant: caller.tenant_number(),
            cache_salt: caller.cache_salt(plan.cache_salt.as_deref()),
            constraint: Some(Box::new(TurnConstraint::new(self.grammar.clone()))),
        };
        let generation =
            self.engine.submit(request).map_err(|error| submit_error(plan.prompt_param, error))?;
        let builder =
            TurnBuilder::new(self.tokenizer.clone(), plan.stop.clone(), plan.stop_token_ids.clone())
                .with_tools(plan.callable.clone());
        Ok(Turn::new(generation, builder, self.admission.clone()))
    }
}

impl Turn {
    /// A turn that follows `generation`.
    pub(super) fn new(generation: Generation, builder: TurnBuilder, admission: Admission) -> Self {
        let (max_queue, meter) = (admission.max_queue(), TurnMeter::new(admission));
        Self { generation: Some(generation), meter, max_queue, builder, ready: VecDeque::new() }
    }

    /// Waits until the engine takes the turn up, if there is a limit to that wait. An answer that has not begun can
    /// still be a refusal.
    ///
    /// # Errors
    /// 503 if it takes too long.
    pub(crate) async fn admitted(&mut self) -> Result<(), ApiError> {
        let Some(limit) = self.max_queue else { return Ok(()) };
        match tokio::time::timeout(limit, self.read()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(ApiError::QueueTimeout { limit_ms: limit.as_millis() }),
        }
    }

    /// The next event; `None` after `Finished`. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<TurnEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            self.read().await?;
        }
    }

    /// Takes the engine's next event; `None` after the last.
    async fn read(&mut self) -> Option<()> {
        let event = self.generation.as_mut()?.next().await?;
        self.meter.note(&event);
        let mut events = Vec::new();
        self.builder.push(event, &mut events);
        self.ready.extend(events);
        if self.builder.has_ended() {
            self.meter.end("stop");
            self.generation = None; // a stop string ends the turn before the engine does
        }
        Some(())
    }
}

/// The prompt of a turn, cut if the plan says so.
///
/// # Errors
/// 400 if it leaves no room for an answer.
pub(crate) fn prompt_of(state: &AppState, plan: &TurnPlan) -> Result<Vec<u32>, ApiError> {
    let max = state.engine().config().max_model_len;
    let render = |conversation: &Conversation| render(conversation, plan.skip_analysis, state.tokenizer());
    let mut prompt = render(&plan.conversation);
    if plan.truncate {
        prompt = truncated(prompt, plan, max, render);
    }
    if prompt.len() >= max {
        return Err(ApiError::ContextLength { param: plan.prompt_param, len: prompt.len(), max });
    }
    Ok(prompt)
}

/// The prompt of a conversation.
pub(crate) fn render(conversation: &Conversation, skip_analysis: bool, tokenizer: &Tokenizer) -> Vec<u32> {
    let mut prompt = conversation.render_prompt(tokenizer);
    if skip_analysis {
        push_empty_analysis(tokenizer, &mut prompt);
    }
    prompt
}

/// `<|channel|>analysis<|message|><|end|><|start|>assistant` after the prompt's own `<|start|>assistant`.
fn push_empty_analysis(tokenizer: &Tokenizer, prompt: &mut Vec<u32>) {
    prompt.push(tokenizer.special(SpecialToken::Channel));
    prompt.extend(tokenizer.encode_ordinary("analysis"));
    for token in [SpecialToken::Message, SpecialToken::End, SpecialToken::Start] {
        prompt.push(tokenizer.special(token));
    }
    prompt.extend(tokenizer.encode_ordinary("assistant"));
}

fn envelope(plan: &TurnPlan, vocab_size: usize) -> EnvelopeOptions {
    let custom = plan.callable.iter().filter(|tool| tool.custom);
    EnvelopeOptions {
        recipients: plan.callable.iter().map(|tool| tool.recipient.clone()).collect(),
        text_recipients: custom.map(|tool| tool.recipient.clone()).collect(),
        allow_analysis: !plan.skip_analysis,
        allow_preamble: !plan.call_required,
        allow_final: !plan.call_required,
        parallel_calls: plan.parallel_calls,
        padded_vocab_size: Some(vocab_size),
    }
}

pub(super) fn submit_error(prompt_param: &'static str, error: SubmitError) -> ApiError {
    match error {
        SubmitError::PromptTooLong { len, max } => ApiError::ContextLength { param: prompt_param, len, max },
        SubmitError::InvalidToken { param, .. } | SubmitError::InvalidParameter { param, .. } => {
            ApiError::invalid(param, "invalid_value", format!("Invalid '{param}': {error}."))
        }
        SubmitError::EmptyPrompt => ApiError::invalid(prompt_param, "invalid_value", error.to_string()),
        SubmitError::QueueFull { max } => ApiError::QueueFull { max },
        SubmitError::Closed => ApiError::Unavailable { reason: error.to_string() },
    }
}
