//! Responses kept in memory, so that a later request can continue one by its id.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::wire::responses::{InputItem, Response};

/// The items of a conversation so far, one segment per turn, and the date in its system message.
#[derive(Debug, Clone)]
pub(crate) struct History {
    segments: Vec<Arc<Vec<InputItem>>>,
    date: String,
}

/// A finished response with what came before it.
#[derive(Debug)]
pub(crate) struct StoredResponse {
    pub(crate) response: Response,
    /// The turn's own input.
    pub(crate) input: Vec<InputItem>,
    history: History,
}

/// The newest responses, up to a number; the oldest goes first.
#[derive(Debug)]
pub(crate) struct ResponseStore {
    max_len: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    responses: HashMap<String, Arc<StoredResponse>>,
    order: VecDeque<String>,
    /// Output items by id, for `item_reference`.
    items: HashMap<String, InputItem>,
}

impl History {
    /// No turns yet; the system message of all that follow will say this date.
    pub(crate) fn new(date: String) -> Self {
        Self { segments: Vec::new(), date }
    }

    /// The items, turn by turn.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &[InputItem]> {
        self.segments.iter().map(|segment| segment.as_slice())
    }

    /// The date that the conversation began.
    pub(crate) fn date(&self) -> &str {
        &self.date
    }
}

impl StoredResponse {
    /// `history` is what came before the turn.
    pub(crate) fn new(response: Response, input: Vec<InputItem>, mut history: History) -> Self {
        let input: Vec<InputItem> = input.into_iter().map(InputItem::settled).collect();
        let mut turn = input.clone();
        turn.extend(response.output.iter().map(InputItem::from));
        history.segments.push(Arc::new(turn));
        Self { response, input, history }
    }

    /// Everything up to and including this turn.
    pub(crate) fn history_after(&self) -> History {
        self.history.clone()
    }
}

impl ResponseStore {
    /// A store of at most `max_len` responses.
    pub(crate) fn new(max_len: usize) -> Self {
        Self { max_len, inner: Mutex::default() }
    }

    /// Keeps a response.
    pub(crate) fn put(&self, stored: StoredResponse) {
        let mut inner = self.lock();
        let id = stored.response.id.clone();
        for item in stored.response.output.iter().map(InputItem::from) {
            inner.items.extend(item.id.clone().map(|id| (id, item)));
        }
        inner.responses.insert(id.clone(), Arc::new(stored));
        inner.order.push_back(id);
        while inner.order.len() > self.max_len {
            let Some(oldest) = inner.order.pop_front() else { break };
            inner.remove(&oldest);
        }
    }

    /// The response of this id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<StoredResponse>> {
        self.lock().responses.get(id).cloned()
    }

    /// The output item of this id.
    pub(crate) fn item(&self, id: &str) -> Option<InputItem> {
        self.lock().items.get(id).cloned()
    }

    /// Forgets a response; `false` if there is none.
    pub(crate) fn delete(&self, id: &str) -> bool {
        let mut inner = self.lock();
        inner.order.retain(|kept| kept != id);
        inner.remove(id)
    }

    /// No code that holds the lock can leave the maps half-changed, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, id: &str) -> bool {
        let Some(stored) = self.responses.remove(id) else { return false };
        for item in &stored.response.output {
            self.items.remove(item.id());
        }
        true
    }
}
