//! The responses that run in the background on this server: their events so far, for whoever wants to follow, and
//! the switch that cancels them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::Stream;
use tokio::sync::watch;

use crate::store::{LoggedEvent, Tenant};

/// Whose response, and its id.
type Key = (Tenant, String);

/// All that run now.
#[derive(Debug, Clone, Default)]
pub(crate) struct LiveResponses(Arc<Mutex<HashMap<Key, Arc<Live>>>>);

/// One that runs, or did until a moment ago.
#[derive(Debug)]
pub(crate) struct Live {
    events: Mutex<Vec<Arc<LoggedEvent>>>,
    /// Number of events, and whether there will be no more.
    progress: watch::Sender<(usize, bool)>,
    cancelled: watch::Sender<bool>,
}

/// Takes the response off the list when it ends, however it ends.
#[derive(Debug)]
pub(crate) struct LiveGuard {
    all: LiveResponses,
    key: Key,
    live: Arc<Live>,
}

impl LiveResponses {
    /// Puts a response on the list.
    pub(crate) fn begin(&self, tenant: &Tenant, id: &str) -> LiveGuard {
        let live = Arc::new(Live {
            events: Mutex::default(),
            progress: watch::Sender::new((0, false)),
            cancelled: watch::Sender::new(false),
        });
        let key = (tenant.clone(), id.to_owned());
        lock(&self.0).insert(key.clone(), Arc::clone(&live));
        LiveGuard { all: self.clone(), key, live }
    }

    /// The response of this id, if it runs here.
    pub(crate) fn get(&self, tenant: &Tenant, id: &str) -> Option<Arc<Live>> {
        lock(&self.0).get(&(tenant.clone(), id.to_owned())).cloned()
    }

    /// All that run here.
    pub(crate) fn running(&self) -> Vec<Key> {
        lock(&self.0).keys().cloned().collect()
    }
}

impl LiveGuard {
    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }
}

impl Drop for LiveGuard {
    fn drop(&mut self) {
        lock(&self.all.0).remove(&self.key);
        self.live.progress.send_modify(|(_, ended)| *ended = true);
    }
}

impl Live {
    /// Adds an event.
    pub(crate) fn push(&self, event: LoggedEvent) {
        let len = {
            let mut events = lock(&self.events);
            events.push(Arc::new(event));
            events.len()
        };
        self.progress.send_modify(|progress| progress.0 = len);
    }

    /// Asks for the end, and waits for it.
    pub(crate) async fn cancel(&self) {
        self.cancelled.send_replace(true);
        // The sender is `self`, so that waiting cannot fail.
        let _ = self.progress.subscribe().wait_for(|(_, ended)| *ended).await;
    }

    /// Resolves when the end is asked for.
    pub(crate) async fn cancelled(&self) {
        let _ = self.cancelled.subscribe().wait_for(|cancelled| *cancelled).await;
    }

    /// The events from the one of this number on, those to come included.
    pub(crate) fn follow(self: Arc<Self>, first: usize) -> impl Stream<Item = Arc<LoggedEvent>> + Send {
        async_stream::stream! {
            let mut progress = self.progress.subscribe();
            let mut next = first;
            loop {
                let (len, ended) = *progress.borrow_and_update();
                let ready: Vec<_> = lock(&self.events).get(next..len).unwrap_or_default().to_vec();
                next += ready.len();
                for event in ready {
                    yield event;
                }
                if ended || progress.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// No code that holds a lock here can leave a collection half-changed, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use serde_json::Value;

    use super::*;

    fn event(name: &str) -> LoggedEvent {
        LoggedEvent { name: name.to_owned(), data: Value::Null }
    }

    #[tokio::test]
    async fn who_comes_late_sees_everything_once() {
        let (all, tenant) = (LiveResponses::default(), Tenant("".into()));
        let guard = all.begin(&tenant, "r");
        guard.live().push(event("a"));
        let live = all.get(&tenant, "r").expect("it runs");
        let early = live.clone().follow(0).map(|event| event.name.clone()).collect::<String>();
        let late = live.clone().follow(2).map(|event| event.name.clone()).collect::<String>();
        let writer = async {
            tokio::task::yield_now().await;
            guard.live().push(event("b"));
            tokio::task::yield_now().await;
            guard.live().push(event("c"));
            drop(guard);
        };
        let (early, late, ()) = tokio::join!(early, late, writer);
        assert_eq!((early.as_str(), late.as_str()), ("abc", "c"));
        assert!(all.get(&tenant, "r").is_none() && all.running().is_empty());
    }

    #[tokio::test]
    async fn cancelling_waits_for_the_end() {
        let (all, tenant) = (LiveResponses::default(), Tenant("".into()));
        let guard = all.begin(&tenant, "r");
        let live = all.get(&tenant, "r").expect("it runs");
        let driver = async {
            guard.live().cancelled().await;
            guard.live().push(event("end"));
            drop(guard);
        };
        tokio::join!(live.cancel(), driver);
        assert_eq!(live.follow(0).count().await, 1);
    }
}
