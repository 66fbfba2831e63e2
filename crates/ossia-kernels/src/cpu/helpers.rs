//! Threads that help with a job: after one they look for the next for a moment, then sleep.
//!
//! A forward pass is some hundreds of short jobs. Waking a thread for each costs more than many of them
//! take; a helper that is still looking need not be woken.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::affinity;

/// How long a helper looks for the next job: longer than the pause between two ops, too short to be noticed
/// on an idle machine.
const LOOKING: Duration = Duration::from_micros(200);

/// Set when the owner lets nobody in any more; the rest of the word counts who is inside.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// What a helper that panicked left behind.
type Panic = Box<dyn Any + Send>;

/// A job without its lifetime; only read between opening and closing.
type Work = *const (dyn Fn() + Sync);

static HELPERS: Helpers = Helpers {
    num_spawned: Mutex::new(0),
    num_jobs: AtomicUsize::new(0),
    door: AtomicUsize::new(CLOSED),
    work: UnsafeCell::new(None),
    panic: Mutex::new(None),
    bed: Mutex::new(()),
    alarm: Condvar::new(),
    num_sleeping: AtomicUsize::new(0),
};

struct Helpers {
    /// Threads so far. Held locked by the owner of the job under way: there is one job at a time.
    num_spawned: Mutex<usize>,
    num_jobs: AtomicUsize,
    door: AtomicUsize,
    work: UnsafeCell<Option<Work>>,
    panic: Mutex<Option<Panic>>,
    bed: Mutex<()>,
    alarm: Condvar,
    num_sleeping: AtomicUsize,
}

// SAFETY: `work` is written by the one owner while the door is closed and nobody is inside, and read by those
// who came in through the open door; opening releases what entering acquires. The closure is `Sync`.
unsafe impl Sync for Helpers {}

/// Runs `work` here, and on up to `num_helpers` threads (or more, if earlier jobs had more) if they come
/// before it ends here. Helpers that have not come by then are not waited for. If another job is under way,
/// `work` runs here alone. A panic of a helper is the caller's panic.
pub(super) fn run(num_helpers: usize, work: &(dyn Fn() + Sync)) {
    let mut num_spawned = match HELPERS.num_spawned.try_lock() {
        Ok(num_spawned) => num_spawned,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return work(),
    };
    while *num_spawned < num_helpers && spawn_helper(*num_spawned) {
        *num_spawned += 1;
    }
    let closing = HELPERS.open(work);
    work();
    drop(closing);
    let panic = HELPERS.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
    drop(num_spawned);
    if let Some(panic) = panic {
        std::panic::resume_unwind(panic);
    }
}

/// Starts the `idx`-th helper; `false` if the system refuses, then there are fewer.
fn spawn_helper(idx: usize) -> bool {
    let builder = std::thread::Builder::new().name("ossia-kernels".to_owned());
    let help = move || {
        affinity::pin_helper(idx);
        HELPERS.help_forever();
    };
    builder.spawn(help).is_ok()
}

impl Helpers {
    /// Offers `work` until the guard is dropped.
    fn open(&self, work: &(dyn Fn() + Sync)) -> CloseOnDrop<'_> {
        // SAFETY: the lifetime is only forgotten: the guard's drop, which also a panic runs, waits until nobody
        // is inside, and `run` drops it before `work` ends. The door is closed and this is the one owner.
        unsafe { *self.work.get() = Some(std::mem::transmute::<&(dyn Fn() + Sync), Work>(work)) };
        self.door.store(0, Ordering::Release);
        self.num_jobs.fetch_add(1, Ordering::SeqCst);
        // Either this sees the sleeper, or the sleeper, who counts itself first, sees the new job.
        if self.num_sleeping.load(Ordering::SeqCst) > 0 {
            drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
            self.alarm.notify_all();
        }
        CloseOnDrop(self)
    }

    fn help_forever(&self) {
        let mut seen = 0;
        loop {
            seen = self.next_job(seen);
            self.help();
        }
    }

    /// Waits until there was another job than `seen`.
    fn next_job(&self, seen: usize) -> usize {
        let started = Instant::now();
        while started.elapsed() < LOOKING {
            for _ in 0..64 {
                match self.num_jobs.load(Ordering::Acquire) {
                    job if job != seen => return job,
                    _ => std::hint::spin_loop(),
                }
            }
        }
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.num_sleeping.fetch_add(1, Ordering::SeqCst);
        loop {
            let job = self.num_jobs.load(Ordering::SeqCst);
            if job != seen {
                self.num_sleeping.fetch_sub(1, Ordering::SeqCst);
                return job;
            }
            bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes part in the job if the door is open, and keeps a panic for its owner.
    fn help(&self) {
        let enter = |state| (state & CLOSED == 0).then_some(state + 1);
        if self.door.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).is_err() {
            return;
        }
        // SAFETY: the door was open, so the owner is waiting for this thread before `work` may end.
        let work = unsafe { (*self.work.get()).map(|work| &*work) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work.map(|work| work()))) {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        self.door.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Lets nobody in any more and waits for those inside, who are at their last task.
struct CloseOnDrop<'a>(&'a Helpers);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        const SPINS: usize = 10_000;
        self.0.door.fetch_or(CLOSED, Ordering::AcqRel);
        for spin in 0.. {
            if self.0.door.load(Ordering::Acquire) == CLOSED {
                return;
            }
            if spin < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}
