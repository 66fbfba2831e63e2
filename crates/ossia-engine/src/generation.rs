//! What comes back from the engine, event by event.

use std::sync::mpsc::Sender;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::sequence::SequenceId;
use crate::thread::Command;

/// The caller's end of one request. Dropping it aborts the request: its blocks are free within one step.
#[derive(Debug)]
pub struct Generation {
    id: SequenceId,
    events: UnboundedReceiver<GenerationEvent>,
    commands: Sender<Command>,
    finished: bool,
}

/// What happens to a request, in this order: `Started`, any number of `Token`s, `Finished`.
#[derive(Clone, Debug, PartialEq)]
pub enum GenerationEvent {
    /// The first blocks were given to it.
    Started {
        /// Tokens of the prompt.
        num_prompt_tokens: usize,
        /// Of these, tokens whose keys and values were found in the prefix cache.
        num_cached_tokens: usize,
    },
    /// A token was generated.
    Token(GeneratedToken),
    /// The last event.
    Finished(FinishReason),
}

/// One generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratedToken {
    /// Token id.
    pub id: u32,
    /// Present when `SamplingParams::logprobs` was.
    pub logprobs: Option<TokenLogprobs>,
}

/// Log-probabilities at one position, from the model's own logits.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Of the chosen token.
    pub logprob: f32,
    /// Of the most probable tokens, best first; as many as asked for.
    pub top: Vec<TokenLogprob>,
}

/// A token and its log-probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// Token id.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token; it was delivered as the last `Token`.
    Stop,
    /// `max_tokens` were generated or the sequence reached `max_model_len`.
    Length,
    /// The engine could not go on; the message says why.
    Failed(String),
}

impl Generation {
    pub(crate) fn new(
        id: SequenceId,
        events: UnboundedReceiver<GenerationEvent>,
        commands: Sender<Command>,
    ) -> Self {
        Self { id, events, commands, finished: false }
    }

    /// The next event; `None` after `Finished`. Safe to cancel.
    pub async fn next(&mut self) -> Option<GenerationEvent> {
        if self.finished {
            return None;
        }
        let event = self.events.recv().await;
        Some(self.note(event))
    }

    /// The next event, for callers without an async runtime; `None` after `Finished`.
    pub fn blocking_next(&mut self) -> Option<GenerationEvent> {
        if self.finished {
            return None;
        }
        let event = self.events.blocking_recv();
        Some(self.note(event))
    }

    /// An engine that went away without a word still ends the request.
    fn note(&mut self, event: Option<GenerationEvent>) -> GenerationEvent {
        let event = event.unwrap_or_else(|| {
            GenerationEvent::Finished(FinishReason::Failed("the engine has shut down".to_owned()))
        });
        self.finished = matches!(event, GenerationEvent::Finished(_));
        event
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.finished {
            // An engine that is gone holds no blocks either.
            let _ = self.commands.send(Command::Abort(self.id));
        }
    }
}
