//! The output of one forward pass.

/// Next-token logits in f32, row-major, one row per entry of [`crate::ForwardBatch::logits_indices`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logits {
    vocab_size: usize,
    data: Vec<f32>,
}

impl Logits {
    /// Wraps `data`, `[rows, vocab_size]`. A last row that is not whole is dropped.
    pub fn new(vocab_size: usize, mut data: Vec<f32>) -> Self {
        let whole = data.len() - data.len().checked_rem(vocab_size).unwrap_or(data.len());
        data.truncate(whole);
        Self { vocab_size, data }
    }

    /// Makes it `rows` rows of `vocab_size` columns in the memory that it has, if that is enough. Values are
    /// whatever was there before: rows of a batch are tens of megabytes, and fresh memory costs more than filling it.
    pub fn reshape(&mut self, rows: usize, vocab_size: usize) {
        self.vocab_size = vocab_size;
        self.data.resize(rows * vocab_size, 0.0);
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len().checked_div(self.vocab_size).unwrap_or(0)
    }

    /// Row `index`, `[vocab_size]`. Panics when `index >= rows()`, like a slice.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.vocab_size..(index + 1) * self.vocab_size]
    }

    /// Row `index`, for masks and biases. Panics when `index >= rows()`, like a slice.
    pub fn row_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.data[index * self.vocab_size..(index + 1) * self.vocab_size]
    }

    /// All rows in order, to be changed side by side.
    pub fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.data.chunks_exact_mut(self.vocab_size.max(1))
    }

    /// Columns of each row.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// All rows, `[rows, vocab_size]`, to be written.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// All rows, `[rows, vocab_size]`.
    pub fn data(&self) -> &[f32] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_at_the_vocabulary() {
        let mut logits = Logits::new(2, vec![1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(logits.rows(), 2);
        logits.row_mut(1)[0] = 7.0;
        assert_eq!(logits.row(1), [7.0, 4.0]);
        assert_eq!(Logits::new(0, vec![1.0]).rows(), 0);
    }

    #[test]
    fn a_shape_that_fits_needs_no_new_memory() {
        let mut logits = Logits::new(2, vec![1.0; 12]);
        let place = logits.data().as_ptr();
        for (rows, vocab_size) in [(0, 2), (2, 6), (1, 3), (6, 2)] {
            logits.reshape(rows, vocab_size);
            assert_eq!((logits.rows(), logits.vocab_size()), (rows, vocab_size));
            assert_eq!(logits.rows_mut().count(), rows);
            assert_eq!(logits.data().as_ptr(), place);
        }
    }
}
