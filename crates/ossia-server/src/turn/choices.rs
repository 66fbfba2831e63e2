//! The `n` answers of one request, side by side. The first answer computes the prompt; the others start when it
//! has begun to speak and find the prompt in the prefix cache.

use futures::stream::{BoxStream, SelectAll, StreamExt, unfold};

use super::{Turn, TurnEvent};
use crate::error::ApiError;

/// Starts the turn of the answer with this index.
type Starter = Box<dyn Fn(usize) -> Result<Turn, ApiError> + Send>;

/// All answers of a request, merged. Dropping it aborts them.
pub(crate) struct Choices {
    start: Starter,
    n: usize,
    others_started: bool,
    running: SelectAll<BoxStream<'static, (usize, TurnEvent)>>,
}

impl Choices {
    /// Starts the first of `n` answers with `start`, which starts the others later.
    ///
    /// # Errors
    /// Those of `start` for the first answer, and 503 if it waits too long for the engine.
    pub(crate) async fn start(
        start: impl Fn(usize) -> Result<Turn, ApiError> + Send + 'static,
        n: usize,
    ) -> Result<Self, ApiError> {
        let mut first = start(0)?;
        first.admitted().await?;
        let running = SelectAll::from_iter([events(0, first)]);
        Ok(Self { start: Box::new(start), n, others_started: n == 1, running })
    }

    /// The next event of any answer; `None` when all have finished.
    ///
    /// # Errors
    /// Those of `start` for another answer.
    pub(crate) async fn next(&mut self) -> Option<Result<(usize, TurnEvent), ApiError>> {
        let (index, event) = self.running.next().await?;
        if !self.others_started && event != TurnEvent::Started {
            self.others_started = true;
            if let Err(error) = self.start_others() {
                return Some(Err(error));
            }
        }
        Some(Ok((index, event)))
    }

    fn start_others(&mut self) -> Result<(), ApiError> {
        for index in 1..self.n {
            self.running.push(events(index, (self.start)(index)?));
        }
        Ok(())
    }
}

fn events(index: usize, turn: Turn) -> BoxStream<'static, (usize, TurnEvent)> {
    unfold(turn, move |mut turn| async move { turn.next().await.map(|event| ((index, event), turn)) }).boxed()
}
