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
    /// Roughly the memory that it takes: the length of its JSON.
    size_bytes: usize,
}

/// The newest responses, up to a number and a size; the oldest goes first.
#[derive(Debug)]
pub(crate) struct ResponseStore {
    max_len: usize,
    max_bytes: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    responses: HashMap<String, Arc<StoredResponse>>,
    order: VecDeque<String>,
    num_bytes: usize,
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
        let size_bytes = json_len(&turn) + json_len(&response);
        history.segments.push(Arc::new(turn));
        Self { response, input, history, size_bytes }
    }

    /// Everything up to and including this turn.
    pub(crate) fn history_after(&self) -> History {
        self.history.clone()
    }
}

impl ResponseStore {
    /// A store of at most `max_len` responses and `max_bytes` of JSON.
    pub(crate) fn new(max_len: usize, max_bytes: usize) -> Self {
        Self { max_len, max_bytes, inner: Mutex::default() }
    }

    /// Keeps a response.
    pub(crate) fn put(&self, stored: StoredResponse) {
        let mut inner = self.lock();
        let id = stored.response.id.clone();
        for item in stored.response.output.iter().map(InputItem::from) {
            inner.items.extend(item.id.clone().map(|id| (id, item)));
        }
        inner.num_bytes += stored.size_bytes;
        inner.responses.insert(id.clone(), Arc::new(stored));
        inner.order.push_back(id);
        while inner.order.len() > self.max_len || inner.num_bytes > self.max_bytes {
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
        self.num_bytes -= stored.size_bytes;
        for item in &stored.response.output {
            self.items.remove(item.id());
        }
        true
    }
}

fn json_len<T: serde::Serialize>(value: &T) -> usize {
    serde_json::to_vec(value).map_or(0, |json| json.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepare::echo;
    use crate::wire::responses::ResponseRequest;

    fn stored(id: &str) -> StoredResponse {
        let response = echo::response(ResponseRequest::default(), "m".to_owned());
        let response = Response { id: id.to_owned(), ..response };
        StoredResponse::new(response, vec![InputItem::default()], History::new("2026-01-01".to_owned()))
    }

    fn kept(store: &ResponseStore) -> Vec<&'static str> {
        ["a", "b", "c"].into_iter().filter(|id| store.get(id).is_some()).collect()
    }

    #[test]
    fn the_oldest_goes_first() {
        let size_bytes = stored("a").size_bytes;
        let cases: [(usize, usize, &[&str]); 5] = [
            (3, usize::MAX, &["a", "b", "c"]),
            (2, usize::MAX, &["b", "c"]),
            (0, usize::MAX, &[]),
            (9, 2 * size_bytes, &["b", "c"]),
            (9, 2 * size_bytes - 1, &["c"]),
        ];
        for (max_len, max_bytes, expected) in cases {
            let store = ResponseStore::new(max_len, max_bytes);
            ["a", "b", "c"].into_iter().for_each(|id| store.put(stored(id)));
            assert_eq!(kept(&store), expected, "{max_len} {max_bytes}");
        }
    }

    #[test]
    fn deleting_gives_room_back() {
        let store = ResponseStore::new(2, usize::MAX);
        store.put(stored("a"));
        store.put(stored("b"));
        assert!(store.delete("a") && !store.delete("a"));
        store.put(stored("c"));
        assert_eq!(kept(&store), ["b", "c"]);
    }
}
