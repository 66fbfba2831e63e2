//! A response under way: its events, and what of it is kept when it ends.

use crate::access::Caller;
use crate::error::ApiError;
use crate::prepare::echo;
use crate::prepare::responses::ResponsePlan;
use crate::state::AppState;
use crate::store::{EventLog, History, Origin, Store, Tenant, TurnRecord};
use crate::turn::{EndReason, Turn, TurnEnd, TurnEvent, TurnStarter, Usage};
use crate::wire::responses::{InputItem, Response, ResponseEvent, SequencedEvent};

use super::events::{EventBuilder, Seal};

/// Drives a turn and keeps what it says: the last event comes out only after the response has been stored.
/// Dropping it aborts the turn.
pub(crate) struct Run {
    turn: Turn,
    builder: EventBuilder,
    keeper: Option<Keeper>,
    input: Vec<InputItem>,
    history: History,
    /// Only the prompt is wanted in the engine's cache, no word of the answer.
    silent: bool,
    pads: bool,
    /// Why the response could not be stored in the end.
    unkept: Option<ApiError>,
}

/// Stores the response.
struct Keeper {
    store: Store,
    tenant: Tenant,
    log: EventLog,
    /// Whether the response was stored when it began.
    begun: bool,
    /// Whether the response itself is to be found again, or only its turn in the conversation.
    by_id: bool,
}

impl Run {
    /// Starts the turn of a plan.
    ///
    /// # Errors
    /// 400 for a prompt that is too long or a schema that cannot be compiled, 403 or 429 for who may not ask, 429 or 503 when the
    /// engine is full or gone.
    pub(crate) async fn start(
        plan: ResponsePlan,
        caller: &Caller,
        state: &AppState,
    ) -> Result<Self, ApiError> {
        let ResponsePlan { turn, stream: _, pads, seal, mut response, input, history } = plan;
        let (admission, tenant) = (caller.admit(state, &response.model)?, caller.tenant());
        let starter = TurnStarter::new(state, admission, turn).await?;
        echo::relax(&mut response, |recipient| starter.is_relaxed(recipient));
        let mut turn = starter.start(0)?;
        turn.admitted().await?;
        let seal = seal.then(|| Seal { sealer: state.sealer().clone(), tenant: tenant.clone() });
        let in_conversation = matches!(history.origin, Origin::Conversation { .. });
        let keeper = (response.store || in_conversation).then(|| Keeper {
            store: state.store().clone(),
            tenant,
            log: EventLog::default(),
            begun: false,
            by_id: response.store,
        });
        let input = input.into_iter().map(InputItem::settled).collect();
        Ok(Self {
            turn,
            builder: EventBuilder::new(response).sealing(seal),
            keeper,
            input,
            history,
            silent: false,
            pads,
            unkept: None,
        })
    }

    /// Prepares for a request that continues this one: the prompt is computed, the output stays empty.
    ///
    /// # Errors
    /// As [`Run::start`].
    pub(crate) async fn prepare(
        mut plan: ResponsePlan,
        caller: &Caller,
        state: &AppState,
    ) -> Result<Self, ApiError> {
        plan.turn.max_tokens = Some(1);
        plan.turn.call_required = false;
        Ok(Self { silent: true, ..Self::start(plan, caller, state).await? })
    }

    /// Why the response could not be stored in the end, if it could not.
    pub(crate) fn take_unkept(&mut self) -> Option<ApiError> {
        self.unkept.take()
    }

    /// Whether the pieces of text that go out are to be padded.
    pub(crate) fn pads(&self) -> bool {
        self.pads
    }

    /// The response as it stands.
    pub(crate) fn response(&self) -> &Response {
        self.builder.response()
    }

    /// This turn's input.
    pub(crate) fn input(&self) -> &[InputItem] {
        &self.input
    }

    /// What came before.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Stores the response as it begins.
    pub(crate) async fn store_beginning(&mut self) -> Result<(), ApiError> {
        let record = self.record(String::new())?;
        if let Some(keeper) = &mut self.keeper {
            keeper.store.insert_turn(&keeper.tenant, &record, true).await?;
            keeper.begun = true;
        }
        Ok(())
    }

    /// The first events.
    pub(crate) fn begin(&mut self) -> Vec<SequencedEvent> {
        let events = self.builder.begin();
        self.log(&events);
        events
    }

    /// What happens next; `None` after the end. Safe to cancel.
    pub(crate) async fn turn_event(&mut self) -> Option<TurnEvent> {
        self.turn.next().await
    }

    /// The events that follow from what happened.
    pub(crate) async fn accept(&mut self, event: TurnEvent) -> Vec<SequencedEvent> {
        let event = if self.silent { unspoken(event) } else { Some(event) };
        let events = event.map(|event| self.builder.push(event)).unwrap_or_default();
        self.settle(events).await
    }

    /// The events that follow from the wish to end it.
    pub(crate) async fn cancel(&mut self) -> Vec<SequencedEvent> {
        let events = self.builder.cancel();
        self.settle(events).await
    }

    /// The next events together; `None` after the end.
    pub(crate) async fn next(&mut self) -> Option<Vec<SequencedEvent>> {
        let event = self.turn_event().await?;
        Some(self.accept(event).await)
    }

    /// Logs the events and stores the response where they say that it goes on or has ended.
    async fn settle(&mut self, mut events: Vec<SequencedEvent>) -> Vec<SequencedEvent> {
        self.log(&events);
        let Some(last) = events.last_mut() else { return events };
        let ended = last.event.terminal().is_some();
        let goes_on = matches!(last.event, ResponseEvent::InProgress { .. });
        if (ended || goes_on)
            && let Err(error) = self.store(ended).await
            && ended
        {
            last.event = self.builder.fail(error.to_string());
            self.unkept = Some(error);
        }
        events
    }

    fn log(&mut self, events: &[SequencedEvent]) {
        if let Some(keeper) = &mut self.keeper {
            // Wire types have string keys and no failing implementations.
            events
                .iter()
                .filter_map(|event| serde_json::to_value(event).ok())
                .for_each(|event| keeper.log.push(event));
        }
    }

    async fn store(&mut self, ended: bool) -> Result<(), ApiError> {
        let log = match &mut self.keeper {
            Some(keeper) if ended => std::mem::take(&mut keeper.log).pack(),
            _ => String::new(),
        };
        let record = self.record(log)?;
        let Some(keeper) = &self.keeper else { return Ok(()) };
        if keeper.begun {
            // Cancelled or deleted elsewhere: there is nothing left to keep.
            keeper.store.update_turn(&keeper.tenant, &record, !ended).await?;
        } else if ended && keeper.by_id {
            keeper.store.insert_turn(&keeper.tenant, &record, false).await?;
        } else if ended {
            keeper.store.append_turn(&keeper.tenant, &record).await?;
        }
        Ok(())
    }

    /// The turn's input, with what came before it if nothing else in the store has that.
    fn stored_input(&self) -> Vec<InputItem> {
        match self.history.origin {
            Origin::Connection => [&self.history.items[..], &self.input].concat(),
            _ => self.input.clone(),
        }
    }

    fn record(&self, events: String) -> Result<TurnRecord, ApiError> {
        let body = serde_json::to_value(self.builder.response())
            .map_err(|error| ApiError::Internal { reason: error.to_string() })?;
        Ok(TurnRecord {
            body,
            input: self.stored_input(),
            origin: self.history.origin.clone(),
            date: self.history.date.clone(),
            events,
        })
    }
}

/// What is left of an event when nothing is to be said.
fn unspoken(event: TurnEvent) -> Option<TurnEvent> {
    let TurnEvent::Finished(TurnEnd { reason, usage }) = event else { return None };
    let reason = match reason {
        EndReason::Failed(reason) => EndReason::Failed(reason),
        _ => EndReason::Stop,
    };
    let usage = Usage { completion_tokens: 0, reasoning_tokens: 0, ..usage };
    Some(TurnEvent::Finished(TurnEnd { reason, usage }))
}
