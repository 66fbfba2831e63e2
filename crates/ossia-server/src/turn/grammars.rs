//! Compiled grammars: made off the async executor, bounded in time and number, kept for the next request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ossia_harmony::{ContentGrammar, GrammarCompiler, GrammarSource, HarmonyError, Tokenizer};
use tokio::sync::Semaphore;

use crate::error::ApiError;
use crate::prepare::ContentRule;

/// Grammars that are kept; the one that was not used for longest goes first.
const MAX_KEPT: usize = 128;
/// Grammars that are compiled at once, so that hostile ones do not take all cores.
const MAX_COMPILING: usize = 2;
/// Longest time for a grammar, waiting for others included. The library's own limits end a compilation sooner.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The compiler of one vocabulary and what it compiled.
#[derive(Debug)]
pub(crate) struct Grammars {
    compiler: Arc<LazyCompiler>,
    kept: Mutex<Kept>,
    compiling: Semaphore,
}

/// A compiler that is built when it is first needed: it reads the whole vocabulary.
#[derive(Debug)]
struct LazyCompiler {
    tokenizer: Tokenizer,
    compiler: OnceLock<Result<GrammarCompiler, String>>,
}

#[derive(Debug, Default)]
struct Kept {
    by_source: HashMap<GrammarSource, (u64, ContentGrammar)>,
    clock: u64,
}

/// Why a grammar is not there.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum GrammarError {
    /// The client's fault.
    #[error("{0}")]
    Refused(String),
    /// It took too long.
    #[error("compiling it takes longer than {} seconds", TIMEOUT.as_secs())]
    Timeout,
    /// The server's fault.
    #[error("{0}")]
    Broken(String),
}

impl Grammars {
    pub(crate) fn new(tokenizer: Tokenizer) -> Self {
        Self {
            compiler: Arc::new(LazyCompiler { tokenizer, compiler: OnceLock::new() }),
            kept: Mutex::default(),
            compiling: Semaphore::new(MAX_COMPILING),
        }
    }

    /// The grammar of a rule, or the one that stands in for it; and whether it is the rule's own.
    ///
    /// # Errors
    /// 400 naming the rule's field with the reason.
    pub(crate) async fn of_rule(&self, rule: &ContentRule) -> Result<(ContentGrammar, bool), ApiError> {
        let error = match self.get(&rule.source).await {
            Ok(grammar) => return Ok((grammar, true)),
            Err(error) => error,
        };
        if let Some(fallback) = &rule.fallback
            && !matches!(error, GrammarError::Broken(_))
        {
            tracing::info!(param = rule.param, reason = %error, "a schema is not enforced, only its type is");
            let grammar = self.get(fallback).await.map_err(|error| error.of(&rule.param))?;
            return Ok((grammar, false));
        }
        Err(error.of(&rule.param))
    }

    async fn get(&self, source: &GrammarSource) -> Result<ContentGrammar, GrammarError> {
        if let Some(grammar) = self.lock().find(source) {
            return Ok(grammar);
        }
        let compiler = self.compiler.clone();
        blocking(move || compiler.ready().map(|_| ())).await?; // not on the grammar's time
        let grammar = tokio::time::timeout(TIMEOUT, self.compile(source))
            .await
            .map_err(|_| GrammarError::Timeout)??;
        self.lock().put(source.clone(), grammar.clone());
        Ok(grammar)
    }

    /// Builds the compiler, if that is not done: with the whole vocabulary it takes seconds.
    pub(crate) fn prepare(&self) {
        if let Err(error) = self.compiler.ready() {
            tracing::error!(%error, "grammars cannot be compiled");
        }
    }

    async fn compile(&self, source: &GrammarSource) -> Result<ContentGrammar, GrammarError> {
        let _permit =
            self.compiling.acquire().await.map_err(|error| GrammarError::Broken(error.to_string()))?;
        let (compiler, source) = (self.compiler.clone(), source.clone());
        blocking(move || compiler.compile(&source)).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `work` where it may take its time.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GrammarError> + Send + 'static,
) -> Result<T, GrammarError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| GrammarError::Broken(error.to_string()))?
}

impl LazyCompiler {
    fn ready(&self) -> Result<&GrammarCompiler, GrammarError> {
        let build = || GrammarCompiler::new(&self.tokenizer).map_err(|error| error.to_string());
        let compiler = self.compiler.get_or_init(build).as_ref();
        compiler.map_err(|reason| GrammarError::Broken(reason.clone()))
    }

    fn compile(&self, source: &GrammarSource) -> Result<ContentGrammar, GrammarError> {
        let refuse = |error: HarmonyError| GrammarError::Refused(error.to_string());
        self.ready()?.compile(source).map_err(refuse)
    }
}

impl Kept {
    fn find(&mut self, source: &GrammarSource) -> Option<ContentGrammar> {
        self.clock += 1;
        let (used, grammar) = self.by_source.get_mut(source)?;
        *used = self.clock;
        Some(grammar.clone())
    }

    fn put(&mut self, source: GrammarSource, grammar: ContentGrammar) {
        self.clock += 1;
        self.by_source.insert(source, (self.clock, grammar));
        if self.by_source.len() > MAX_KEPT {
            let oldest = self.by_source.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(source, _)| source.clone()) {
                self.by_source.remove(&oldest);
            }
        }
    }
}

impl GrammarError {
    /// The error of the field `param`.
    fn of(self, param: &str) -> ApiError {
        match self {
            Self::Broken(reason) => ApiError::Internal { reason },
            reason => {
                let message = format!("Invalid '{param}': {reason}.");
                ApiError::invalid(param, "invalid_value", message)
            }
        }
    }
}
