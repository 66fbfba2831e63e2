//! The audit log: one JSON object per line for each request that generated, and for each that was refused.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock;
use crate::wire::audit::AuditRecord;

/// Where the log goes, if anywhere. Clones write to the same place.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Log>>);

struct Log {
    out: Mutex<Box<dyn Write + Send>>,
    contents: bool,
}

impl Audit {
    /// A log that is written to `out`, line by line; with `contents`, prompts and answers too.
    pub fn new(out: Box<dyn Write + Send>, contents: bool) -> Self {
        Self(Some(Arc::new(Log { out: Mutex::new(out), contents })))
    }

    /// Whether prompts and answers are wanted.
    pub(crate) fn wants_contents(&self) -> bool {
        self.0.as_ref().is_some_and(|log| log.contents)
    }

    /// Writes a record, with the time. What cannot be written is said in the log of the server.
    pub(crate) fn write(&self, record: AuditRecord<'_>) {
        let Some(log) = &self.0 else { return };
        let record = AuditRecord { time: clock::timestamp(), ..record };
        // Wire types have string keys and no failing implementations.
        let mut line = serde_json::to_vec(&record).unwrap_or_default();
        line.push(b'\n');
        let mut out = log.out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = out.write_all(&line).and_then(|()| out.flush()) {
            tracing::error!(%error, "the audit log cannot be written");
        }
    }
}
