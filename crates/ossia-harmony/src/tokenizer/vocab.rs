//! The vocabulary as bytes: by id, in sorted order, and its special tokens.

use crate::{HarmonyError, SpecialToken};

/// Every token's bytes, and which tokens are special.
pub(crate) struct Vocab {
    /// The bytes of all tokens, one after the other by id.
    data: Vec<u8>,
    /// Where each token begins in `data`; one more entry than tokens.
    offsets: Vec<u32>,
    /// Ids of the ordinary tokens, by their bytes.
    sorted: Vec<u32>,
    /// Ids of `SpecialToken::ALL`, in that order.
    specials: [u32; 9],
    /// Ids of all special tokens, ascending.
    control: Vec<u32>,
}

impl Vocab {
    /// `tokens` maps an id to its bytes, `control` holds the ids of the special ones.
    pub(crate) fn new(tokens: Vec<(u32, Vec<u8>)>, mut control: Vec<u32>) -> Result<Self, HarmonyError> {
        control.sort_unstable();
        control.dedup();
        let len = tokens.iter().map(|(id, _)| *id as usize + 1).max().unwrap_or(0);
        let mut by_id = vec![Vec::new(); len];
        for (id, bytes) in tokens {
            by_id[id as usize] = bytes;
        }
        let mut vocab = Self {
            data: by_id.concat(),
            offsets: Vec::with_capacity(len + 1),
            sorted: Vec::new(),
            specials: [0; 9],
            control,
        };
        vocab.offsets.push(0);
        let mut end = 0;
        vocab.offsets.extend(by_id.iter().map(|bytes| {
            end += bytes.len() as u32;
            end
        }));
        for (slot, token) in SpecialToken::ALL.into_iter().enumerate() {
            let text = token.text();
            let found = vocab.control.iter().copied().find(|&id| vocab.bytes(id) == text.as_bytes());
            vocab.specials[slot] = found.ok_or(HarmonyError::MissingSpecialToken { text })?;
        }
        let is_ordinary =
            |id: &u32| !by_id[*id as usize].is_empty() && vocab.control.binary_search(id).is_err();
        let mut sorted: Vec<u32> = (0..len as u32).filter(is_ordinary).collect();
        sorted.sort_unstable_by(|&a, &b| by_id[a as usize].cmp(&by_id[b as usize]));
        vocab.sorted = sorted;
        Ok(vocab)
    }

    /// One more than the largest id.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The bytes of a token; empty if there is none with that id.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        match self.offsets.get(id as usize..) {
            Some([start, end, ..]) => &self.data[*start as usize..*end as usize],
            _ => &[],
        }
    }

    /// The ordinary token with exactly these bytes.
    pub(crate) fn id_of(&self, bytes: &[u8]) -> Option<u32> {
        let found = self.sorted.binary_search_by(|&id| self.bytes(id).cmp(bytes));
        found.ok().map(|at| self.sorted[at])
    }

    /// Ids of the ordinary tokens in the order of their bytes.
    pub(crate) fn sorted(&self) -> &[u32] {
        &self.sorted
    }

    /// The id of a special token.
    pub(crate) fn special(&self, token: SpecialToken) -> u32 {
        self.specials[token as usize]
    }

    /// Which special token `id` is.
    pub(crate) fn special_of(&self, id: u32) -> Option<SpecialToken> {
        let slot = self.specials.iter().position(|&special| special == id)?;
        Some(SpecialToken::ALL[slot])
    }

    /// Ids of all special tokens, ascending.
    pub(crate) fn control_ids(&self) -> &[u32] {
        &self.control
    }

    /// Whether `id` is a special token.
    pub(crate) fn is_control(&self, id: u32) -> bool {
        self.control.binary_search(&id).is_ok()
    }

    /// The longest special token that `text` begins with, and its length in bytes.
    pub(crate) fn control_token_at(&self, text: &str) -> Option<(u32, usize)> {
        let matches = self.control.iter().map(|&id| (id, self.bytes(id)));
        let matches = matches.filter(|(_, bytes)| !bytes.is_empty() && text.as_bytes().starts_with(bytes));
        matches.map(|(id, bytes)| (id, bytes.len())).max_by_key(|(_, len)| *len)
    }
}
