//! One pool for everything: rayon's global one, with the calling thread taking part.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::gate::{CloseOnDrop, Gate};

static NUM_THREADS: AtomicUsize = AtomicUsize::new(0);

/// Threads that an op may use: what [`set_num_threads`] said, else one per available core.
pub fn num_threads() -> usize {
    match NUM_THREADS.load(Ordering::Relaxed) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// Sets how many threads an op may use, the calling one included (at least 1). The first call also sizes
/// rayon's global pool, unless something started that already. Results do not depend on it, bit for bit.
pub fn set_num_threads(num_threads: usize) {
    let num_threads = num_threads.max(1);
    NUM_THREADS.store(num_threads, Ordering::Relaxed);
    // An error only says that the pool exists; then its size stays and the count above still holds.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build_global();
}

/// Threads worth waking for `cost` weights read, or multiplied with eight tokens: waking a thread takes
/// some ten microseconds, in which one core reads 100,000 weights or so.
pub(crate) fn threads_for(cost: usize) -> usize {
    const SEQUENTIAL_BELOW: usize = 500_000;
    if cost < SEQUENTIAL_BELOW { 1 } else { num_threads() }
}

/// Runs `task(0) .. task(num_tasks - 1)`, each once, in no particular order, on up to `threads` threads.
///
/// The calling thread works too. Each thread walks its own span of consecutive tasks, so that what one task
/// prefetches is what the same thread reads next, and then helps with the spans of others; helpers that
/// have not come by the time all tasks are taken are not waited for. A busy neighbour core slows the whole
/// only by its share. A panic of a task is the caller's panic.
pub(crate) fn for_each_task(num_tasks: usize, threads: usize, task: impl Fn(usize) + Sync) {
    let num_spans = threads.min(num_tasks);
    let start_of = |span: usize| num_tasks * span / num_spans;
    let next: Vec<_> = (0..num_spans).map(|span| AtomicUsize::new(start_of(span))).collect();
    let next_seat = AtomicUsize::new(0);
    let work = || {
        let seat = next_seat.fetch_add(1, Ordering::Relaxed);
        for span in (0..num_spans).map(|i| (seat + i) % num_spans) {
            loop {
                let idx = next[span].fetch_add(1, Ordering::Relaxed);
                if idx >= start_of(span + 1) {
                    break;
                }
                task(idx);
            }
        }
    };
    with_helpers(num_spans.saturating_sub(1), &work);
}

/// Runs `work` here and on up to `helpers` threads of the pool.
fn with_helpers<W: Fn() + Sync>(helpers: usize, work: &W) {
    if helpers == 0 {
        return work();
    }
    let gate = Arc::new(Gate::default());
    let closing = CloseOnDrop(&gate);
    for _ in 0..helpers {
        let (gate, work) = (Arc::clone(&gate), Erased::new(work));
        rayon::spawn(move || {
            // SAFETY: the gate lets nobody in after it is closed, and `with_helpers` neither returns nor
            // unwinds before it is closed and empty; until then `work` lives.
            gate.help(|| unsafe { work.call() });
        });
    }
    work();
    drop(closing);
    if let Some(panic) = gate.take_panic() {
        std::panic::resume_unwind(panic);
    }
}

/// A borrowed closure without its lifetime.
struct Erased {
    work: *const (),
    call: unsafe fn(*const ()),
}

// SAFETY: `new` takes closures that may be called from any thread.
unsafe impl Send for Erased {}

impl Erased {
    fn new<W: Fn() + Sync>(work: &W) -> Self {
        /// # Safety
        /// `work` points to a living `W`.
        unsafe fn call<W: Fn()>(work: *const ()) {
            // SAFETY: the caller's promise.
            unsafe { (*work.cast::<W>())() }
        }
        Self { work: std::ptr::from_ref(work).cast(), call: call::<W> }
    }

    /// # Safety
    /// The closure is still alive.
    unsafe fn call(&self) {
        // SAFETY: `call` belongs to the type of `work`, which lives.
        unsafe { (self.call)(self.work) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    fn count_runs(num_tasks: usize, threads: usize) -> Vec<usize> {
        let runs: Vec<_> = (0..num_tasks).map(|_| AtomicUsize::new(0)).collect();
        for_each_task(num_tasks, threads, |idx| {
            runs[idx].fetch_add(1, Ordering::Relaxed);
        });
        runs.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn each_task_runs_once() {
        for threads in [1, 2, 5] {
            for num_tasks in [0, 1, 2, 100].repeat(50) {
                assert_eq!(count_runs(num_tasks, threads), vec![1; num_tasks]);
            }
        }
    }

    #[test]
    fn helpers_that_never_come_are_not_waited_for() {
        let pool_size = rayon::current_num_threads();
        let (blocked, release) =
            (Arc::new(Barrier::new(pool_size + 1)), Arc::new(Barrier::new(pool_size + 1)));
        for _ in 0..pool_size {
            let (blocked, release) = (Arc::clone(&blocked), Arc::clone(&release));
            rayon::spawn(move || {
                blocked.wait();
                release.wait();
            });
        }
        blocked.wait();
        assert_eq!(count_runs(10, 3), vec![1; 10]);
        release.wait();
    }

    #[test]
    fn a_panic_of_any_task_is_the_callers() {
        for bad in [0, 7, 19] {
            let caught = std::panic::catch_unwind(|| {
                for_each_task(20, 3, |idx| {
                    assert!(idx != bad, "task {bad}");
                    std::thread::sleep(std::time::Duration::from_micros(50));
                });
            });
            assert!(caught.is_err());
        }
    }
}
