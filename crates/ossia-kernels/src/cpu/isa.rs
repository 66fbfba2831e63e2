//! Which instruction set the matrix products use.

use crate::{KernelError, Result};

/// Instruction sets with a path of their own, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust, any processor.
    Portable,
}

impl Isa {
    /// The best set that this processor and operating system offer.
    pub fn detect() -> Self {
        Self::Portable
    }

    /// Whether this processor can run the set.
    pub fn is_available(self) -> bool {
        self <= Self::detect()
    }

    /// Name for logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
        }
    }

    pub(crate) fn checked(self) -> Result<Self> {
        if self.is_available() {
            return Ok(self);
        }
        Err(KernelError::IsaUnavailable { isa: self.name() })
    }
}
