//! How an op spreads its work over threads, the calling one among them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::helpers;

static NUM_THREADS: AtomicUsize = AtomicUsize::new(0);

/// Threads that an op may use: what [`set_num_threads`] said, else one per available core.
pub fn num_threads() -> usize {
    match NUM_THREADS.load(Ordering::Relaxed) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// Sets how many threads an op may use, the calling one included (at least 1). Results do not depend on it,
/// bit for bit.
pub fn set_num_threads(num_threads: usize) {
    NUM_THREADS.store(num_threads.max(1), Ordering::Relaxed);
}

/// Threads worth calling for `cost` weights read, or multiplied with eight tokens. Below this, sharing
/// a job is taken to cost more than it saves; the bound was chosen, not measured.
pub(crate) fn threads_for(cost: usize) -> usize {
    const SEQUENTIAL_BELOW: usize = 100_000;
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
    if num_spans <= 1 {
        return (0..num_tasks).for_each(task);
    }
    let start_of = |span: usize| num_tasks * span / num_spans;
    let next: Vec<_> = (0..num_spans).map(|span| AtomicUsize::new(start_of(span))).collect();
    let next_seat = AtomicUsize::new(0);
    let work = || {
        let seat = next_seat.fetch_add(1, Ordering::Relaxed);
        if seat >= num_spans {
            return; // an earlier job had more helpers
        }
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
    helpers::run(num_spans - 1, &work);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;

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
    fn several_owners_and_jobs_within_jobs_do_their_own_work() {
        let counts: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..200).map(|_| count_runs(10, 3)).collect::<Vec<_>>()))
            .collect();
        for thread in counts {
            assert!(thread.join().unwrap().into_iter().all(|runs| runs == [1; 10]));
        }
        for_each_task(20, 3, |_| assert_eq!(count_runs(10, 3), [1; 10]));
    }

    #[test]
    fn helpers_come_again_after_they_slept() {
        let is_helped = || {
            let threads = Mutex::new(HashSet::new());
            for_each_task(50, 2, |_| {
                threads.lock().unwrap().insert(std::thread::current().id());
                std::thread::sleep(Duration::from_micros(50));
            });
            threads.into_inner().unwrap().len() == 2
        };
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(2));
            while !is_helped() {} // alone only while another test has the helpers
        }
    }

    #[test]
    fn a_panic_of_any_task_is_the_callers() {
        for bad in [0, 7, 19] {
            let caught = std::panic::catch_unwind(|| {
                for_each_task(20, 3, |idx| {
                    assert!(idx != bad, "task {bad}");
                    std::thread::sleep(Duration::from_micros(50));
                });
            });
            assert!(caught.is_err());
        }
    }
}
