//! Drawing the next token of rows of logits where the logits are.

#[cfg(any(test, feature = "cuda"))]
mod cuda;
mod uniforms;

use candle_core::Tensor;

use crate::backend::Backend;
#[cfg(feature = "cuda")]
use crate::backend::Form;
use crate::{DeviceInput, KernelError, Result};

pub use self::uniforms::Uniforms;

/// How the next token of a row is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// Divides the logits; 0 takes the most probable token, of equals the one of the lowest id.
    pub temperature: f32,
    /// In [0, 1): the token is the one into whose share of the mass this falls, in the order of ids.
    pub uniform: f64,
    /// Tokens that are not to be drawn; ids past the vocabulary are ignored.
    pub forbidden: Vec<u32>,
    /// The only tokens that may be drawn: token `t` if bit `t % 32` of word `t / 32` is set; those past the last word may not.
    /// `None` for all.
    pub allowed: Option<Vec<u32>>,
    /// Which of the others are left to draw from; `None` for all.
    pub filters: Option<Filters>,
}

/// Which tokens are left to draw from. Tokens rank by their logits, of equals the lower id first.
#[derive(Clone, Debug, PartialEq)]
pub struct Filters {
    /// So many of the first ones; 0 for all.
    pub top_k: u32,
    /// Of those the first ones that together have this share of their mass, one at least; in (0, 1].
    pub top_p: f32,
    /// Only tokens that are at least this fraction as probable as the first one; in [0, 1].
    pub min_p: f32,
    /// A token that `top_p` leaves out is drawn again with these among those that rank up to it.
    pub redraws: Uniforms,
}

/// What came of a draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// A token.
    Token(u32),
    /// A logit is NaN or infinity.
    NotFinite,
    /// Every token is forbidden.
    NothingAllowed,
}

impl Draw {
    /// A draw from all tokens.
    pub fn plain(temperature: f32, uniform: f64) -> Self {
        Self { temperature, uniform, forbidden: Vec::new(), allowed: None, filters: None }
    }

    /// Whether token `id` may be drawn.
    pub fn allows(&self, id: u32) -> bool {
        let is_set =
            |words: &Vec<u32>| words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1);
        self.allowed.as_ref().is_none_or(is_set) && !self.forbidden.contains(&id)
    }
}

impl Backend {
    /// Whether [`Self::draw`] takes rows of `vocab_size` logits and is faster than fetching them.
    pub fn draws(&self, vocab_size: usize) -> bool {
        #[cfg(feature = "cuda")]
        if let Form::Cuda(_) = self.form() {
            return cuda::takes(vocab_size);
        }
        let _ = vocab_size;
        false
    }

    /// Draws a token from row `row` of `logits` `[.., vocab]` f32 for each of `draws`, pairs of a row and how it is drawn. Logits of
    /// tokens that may not be drawn are overwritten. `input` is memory for what the device reads.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if a row is not there or the vocabulary is larger than the kernel takes,
    /// [`KernelError::Candle`] where [`Self::draws`] says no.
    pub fn draw(
        &self,
        logits: &Tensor,
        draws: &[(u32, &Draw)],
        input: &mut DeviceInput,
    ) -> Result<Vec<Drawn>> {
        let (num_rows, vocab) = logits.dims2()?;
        if let Some(&(row, _)) = draws.iter().find(|(row, _)| *row as usize >= num_rows) {
            return Err(KernelError::Shape {
                op: "draw",
                what: "row",
                expected: format!("below {num_rows}"),
                found: vec![row as usize],
            });
        }
        if draws.is_empty() {
            return Ok(Vec::new());
        }
        #[cfg(feature = "cuda")]
        if let Form::Cuda(kernels) = self.form() {
            return cuda::draw(self, kernels, logits, draws, vocab, input);
        }
        let _ = (vocab, input);
        Err(candle_core::Error::Msg("this backend draws no tokens".to_owned()).into())
    }
}
