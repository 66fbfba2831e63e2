//! Who uses an SQLite file: every server holds a shared lock on a file beside it, and the one that finds nobody
//! else there when it starts knows that it is alone.

use std::fs::{File, TryLockError};
use std::path::PathBuf;

use super::{StoreError, StoreTarget};

/// The lock, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(super) enum Lock {
    /// Nothing to lock: memory, which nobody else can have.
    Memory,
    /// PostgreSQL: nobody knows who else is there.
    Database,
    /// A lock file.
    File { path: PathBuf, file: File, alone: bool },
}

impl Lock {
    /// Takes the lock for oneself, or shares it with those who have it.
    pub(super) fn take(target: &StoreTarget) -> Result<Self, StoreError> {
        let path = match target {
            StoreTarget::Sqlite(path) => path.with_extension("lock"),
            StoreTarget::Postgres(_) => return Ok(Self::Database),
            StoreTarget::Memory | StoreTarget::Nothing => return Ok(Self::Memory),
        };
        let failed = |source| StoreError::Lock { path: path.clone(), source };
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        let alone = match file.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => {
                file.lock_shared().map_err(failed)?;
                false
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        };
        Ok(Self::File { path, file, alone })
    }

    /// Whether nobody else uses the database.
    pub(super) fn is_alone(&self) -> bool {
        matches!(self, Self::Memory | Self::File { alone: true, .. })
    }

    /// Lets others in.
    pub(super) fn share(self) -> Result<Self, StoreError> {
        if let Self::File { path, file, alone: true } = &self {
            let shared = file.unlock().and_then(|()| file.lock_shared());
            shared.map_err(|source| StoreError::Lock { path: path.clone(), source })?;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_alone_and_the_last_to_stay_is_not() {
        let path = std::env::temp_dir().join(format!("ossia-lock-{}.sqlite", std::process::id()));
        let take = || Lock::take(&StoreTarget::Sqlite(path.clone())).expect("a lock");
        let first = take();
        assert!(first.is_alone());
        let first = first.share().expect("shared");
        let second = take();
        assert!(!second.is_alone());
        drop((first, second));
        assert!(take().is_alone());
        std::fs::remove_file(path.with_extension("lock")).expect("removed");
    }
}
