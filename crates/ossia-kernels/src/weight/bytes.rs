//! The bytes of one weight: a range of a mapped file or owned memory.

use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;

/// Shared read-only bytes of a weight. Cloning shares them.
///
/// Mapped bytes have whatever alignment the file gives them; every kernel reads them unaligned.
#[derive(Clone)]
pub struct WeightBytes {
    storage: Storage,
    range: Range<usize>,
}

#[derive(Clone)]
enum Storage {
    Mapped(Arc<Mmap>),
    Owned(Arc<Vec<u8>>),
}

impl WeightBytes {
    /// A range of a mapped file. A range that runs past the end of the map is cut to the map;
    /// the length check of the weight then names what is missing.
    pub fn mapped(map: Arc<Mmap>, range: Range<usize>) -> Self {
        let end = range.end.min(map.len());
        let range = range.start.min(end)..end;
        Self { storage: Storage::Mapped(map), range }
    }

    /// Bytes held in memory.
    pub fn owned(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { storage: Storage::Owned(Arc::new(bytes)), range }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        let all: &[u8] = match &self.storage {
            Storage::Mapped(map) => map,
            Storage::Owned(bytes) => bytes,
        };
        &all[self.range.clone()]
    }

    /// A range of these bytes, which it shares; `None` if it runs past their end.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let range = self.range.start + range.start..self.range.start + range.end;
        Some(Self { storage: self.storage.clone(), range })
    }

    /// Gives the memory of mapped bytes back to the system. Nobody should read them afterwards: those of a file are read
    /// again, others are zero.
    pub(crate) fn release(&self) {
        #[cfg(unix)]
        if let Storage::Mapped(map) = &self.storage {
            const PAGE: usize = 4096;
            let inside = self.range.start.next_multiple_of(PAGE)..self.range.end / PAGE * PAGE;
            // SAFETY: pages of the map stay readable, and any bytes are valid. Failure leaves them where they are.
            let _ = inside.is_empty()
                || unsafe {
                    map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, inside.start, inside.len())
                        .is_ok()
                };
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

impl std::fmt::Debug for WeightBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.storage {
            Storage::Mapped(_) => "mapped",
            Storage::Owned(_) => "owned",
        };
        write!(f, "WeightBytes({kind}, {} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::unwrap_used)]
    fn clones_and_slices_share_the_bytes() {
        let bytes = WeightBytes::owned(vec![1, 2, 3]);
        let other = bytes.clone();
        assert_eq!(bytes.as_slice().as_ptr(), other.as_slice().as_ptr());
        assert_eq!(other.as_slice(), [1, 2, 3]);
        let end = bytes.slice(1..3).unwrap();
        assert_eq!(end.slice(1..2).unwrap().as_slice().as_ptr(), &raw const bytes.as_slice()[2]);
        assert!(end.slice(1..3).is_none());
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn a_range_past_the_map_is_cut() {
        let map = Arc::new(memmap2::MmapMut::map_anon(8).unwrap().make_read_only().unwrap());
        assert_eq!(WeightBytes::mapped(map.clone(), 2..8).len(), 6);
        assert_eq!(WeightBytes::mapped(map.clone(), 4..20).len(), 4);
        assert_eq!(WeightBytes::mapped(map, 9..20).len(), 0);
    }
}
