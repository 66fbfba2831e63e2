//! The `n` answers of one request, side by side. The first answer computes the prompt; the others start when it
//! has begun to speak and find the prompt in the prefix cache.

use futures::stream::{BoxStream, SelectAll, StreamExt, unfold};

use super::{EndReason, Turn, TurnEnd, TurnEvent, TurnStarter, Usage};
use crate::error::ApiError;

/// All answers of a request, merged. Dropping it aborts them.
pub(crate) struct Choices {
    starter: TurnStarter,
    n: usize,
    others_started: bool,
    running: SelectAll<BoxStream<'static, (usize, TurnEvent)>>,
}

impl Choices {
    /// Starts the first answer.
    ///
    /// # Errors
    /// As [`TurnStarter::start`].
    pub(crate) fn start(starter: TurnStarter, n: usize) -> Result<Self, ApiError> {
        let first = starter.start(0)?;
        let running = SelectAll::from_iter([events(0, first)]);
        Ok(Self { starter, n, others_started: n == 1, running })
    }

    /// The next event of any answer; `None` when all have finished.
    pub(crate) async fn next(&mut self) -> Option<(usize, TurnEvent)> {
        let (index, event) = self.running.next().await?;
        if !self.others_started && event != TurnEvent::Started {
            self.others_started = true;
            (1..self.n).for_each(|index| self.start_other(index));
        }
        Some((index, event))
    }

    /// An answer that cannot start has failed.
    fn start_other(&mut self, index: usize) {
        let stream = match self.starter.start(index) {
            Ok(turn) => events(index, turn),
            Err(error) => {
                let reason = EndReason::Failed(error.to_string());
                let end = TurnEnd { reason, usage: Usage::default() };
                futures::stream::iter([(index, TurnEvent::Finished(end))]).boxed()
            }
        };
        self.running.push(stream);
    }
}

fn events(index: usize, turn: Turn) -> BoxStream<'static, (usize, TurnEvent)> {
    unfold(turn, move |mut turn| async move { turn.next().await.map(|event| ((index, event), turn)) }).boxed()
}
