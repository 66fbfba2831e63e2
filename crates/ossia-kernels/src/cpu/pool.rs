//! One pool for everything: rayon's global one, with the calling thread taking part.

use std::sync::atomic::{AtomicUsize, Ordering};

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
/// Threads take the next task when they are free, so a busy neighbour slows the whole only by its share.
pub(crate) fn for_each_task(num_tasks: usize, threads: usize, task: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let idx = next.fetch_add(1, Ordering::Relaxed);
            if idx >= num_tasks {
                return;
            }
            task(idx);
        }
    };
    let helpers = threads.min(num_tasks).saturating_sub(1);
    if helpers == 0 {
        return work();
    }
    rayon::in_place_scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|_| work());
        }
        work();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_task_runs_once() {
        for threads in [1, 2, 5] {
            for num_tasks in [0, 1, 2, 100] {
                let runs: Vec<_> = (0..num_tasks).map(|_| AtomicUsize::new(0)).collect();
                for_each_task(num_tasks, threads, |idx| {
                    runs[idx].fetch_add(1, Ordering::Relaxed);
                });
                assert!(runs.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            }
        }
    }
}
