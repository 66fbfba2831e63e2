//! Everything that can go wrong at the engine's door.

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SubmitError {
    /// The prompt has no token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt leaves no room for a generated token, now or ever.
    #[error("the prompt has {len} tokens, but a sequence may have at most {max}, of which one is generated")]
    PromptTooLong {
        /// Tokens of the prompt.
        len: usize,
        /// Most tokens of a sequence, prompt and generation together.
        max: usize,
    },
    /// A token id, of the prompt or of a parameter, is not of the model's vocabulary.
    #[error("{param}: token id {id} is not below the vocabulary size {vocab_size}")]
    InvalidToken {
        /// The field that holds it.
        param: &'static str,
        /// The token id.
        id: u32,
        /// Tokens of the vocabulary.
        vocab_size: usize,
    },
    /// A parameter is out of range.
    #[error("{param} is {value}, expected {expected}")]
    InvalidParameter {
        /// The parameter.
        param: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Too many requests wait already.
    #[error("{max} requests are waiting already")]
    QueueFull {
        /// The limit, `EngineConfig::max_num_waiting`.
        max: usize,
    },
    /// The engine has shut down.
    #[error("the engine has shut down")]
    Closed,
}

/// Why an engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The limits contradict each other or the runner.
    #[error("engine configuration: {0}")]
    Config(String),
    /// The engine thread could not be started.
    #[error("the engine thread could not be started: {0}")]
    Thread(#[source] std::io::Error),
}
