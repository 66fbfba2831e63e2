//! From a tiktoken rank file to a tokenizer: o200k_harmony without a download.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokenizers::AddedToken;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;

use super::load::{o200k_splitter, parse_error};
use super::{Tokenizer, byte_level};
use crate::HarmonyError;

/// The special tokens of o200k_harmony in the order of their ids, which follow the ranks (199998 and on).
const O200K_HARMONY_SPECIALS: [&str; 21] = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|reserved_200000|>",
    "<|reserved_200001|>",
    "<|return|>",
    "<|constrain|>",
    "<|reserved_200004|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|reserved_200009|>",
    "<|reserved_200010|>",
    "<|reserved_200011|>",
    "<|call|>",
    "<|reserved_200013|>",
    "<|reserved_200014|>",
    "<|reserved_200015|>",
    "<|reserved_200016|>",
    "<|reserved_200017|>",
    "<|endofprompt|>",
];

impl Tokenizer {
    /// The o200k_harmony tokenizer from o200k_base's rank file, the same as the one in gpt-oss's tokenizer.json.
    ///
    /// # Errors
    /// If a line is not `<base64> <rank>`, or the library refuses the vocabulary.
    pub fn from_tiktoken_ranks(file: &[u8]) -> Result<Self, HarmonyError> {
        build(parse_ranks(file)?)
    }

    /// The same from the tokens themselves, in the order of their ranks.
    ///
    /// # Errors
    /// If the library refuses the vocabulary.
    pub fn from_ranked_tokens(tokens: Vec<Vec<u8>>) -> Result<Self, HarmonyError> {
        build(tokens)
    }

    /// The same with the first ranks only, so that it has `vocab_size` tokens: a small tokenizer for a small model.
    ///
    /// # Errors
    /// As [`Tokenizer::from_tiktoken_ranks`]; and if there is no room for 256 bytes and the special tokens.
    pub fn from_tiktoken_ranks_sized(file: &[u8], vocab_size: usize) -> Result<Self, HarmonyError> {
        let min = 256 + O200K_HARMONY_SPECIALS.len();
        if vocab_size < min {
            return Err(HarmonyError::VocabTooSmall { vocab_size, min });
        }
        let mut ranks = parse_ranks(file)?;
        ranks.truncate(vocab_size - O200K_HARMONY_SPECIALS.len());
        build(ranks)
    }
}

/// Tokens by rank.
fn parse_ranks(file: &[u8]) -> Result<Vec<Vec<u8>>, HarmonyError> {
    let mut tokens = Vec::new();
    let lines = file.split(|&byte| byte == b'\n').enumerate();
    for (idx, line) in lines.filter(|(_, line)| !line.trim_ascii().is_empty()) {
        let rank_is_next = |rank: &str| rank.parse() == Ok(tokens.len());
        let parsed = str::from_utf8(line).ok().and_then(|line| line.trim_ascii().split_once(' '));
        let token =
            parsed.filter(|(_, rank)| rank_is_next(rank)).and_then(|(token, _)| STANDARD.decode(token).ok());
        tokens.push(token.ok_or(HarmonyError::ParseRanks { line: idx + 1 })?);
    }
    Ok(tokens)
}

fn build(tokens: Vec<Vec<u8>>) -> Result<Tokenizer, HarmonyError> {
    let texts: Vec<String> = tokens.iter().map(|token| encoded(token)).collect();
    let merges = merges(&tokens);
    let merges =
        merges.into_iter().map(|(a, b)| (texts[a as usize].clone(), texts[b as usize].clone())).collect();
    let vocab: ahash::AHashMap<String, u32> = texts.into_iter().zip(0..).collect();
    let model = BPE::builder().vocab_and_merges(vocab, merges).build().map_err(parse_error)?;

    let mut library = tokenizers::Tokenizer::new(model);
    let byte_level = ByteLevel::new(false, true, false);
    library.with_pre_tokenizer(Some(Sequence::new(o200k_splitter()?)));
    library.with_post_processor(Some(byte_level));
    library.with_decoder(Some(ByteLevel::default()));
    let specials = O200K_HARMONY_SPECIALS.map(|text| AddedToken::from(text, true));
    library.add_special_tokens(specials).map_err(parse_error)?;
    let specials =
        library.get_added_tokens_decoder().into_iter().map(|(id, token)| (id, token.content.into_bytes()));
    let tokens = (0..).zip(tokens).chain(specials).collect();
    Tokenizer::from_parts(library, tokens)
}

fn encoded(token: &[u8]) -> String {
    let mut text = String::with_capacity(token.len() * 2);
    byte_level::push_encoded(&mut text, token);
    text
}

/// Pairs of ranks that merge, most urgent first: by the rank of what they become, then by their own ranks.
///
/// tiktoken joins the neighbours whose joint rank is least; so every way to cut a token into two tokens is a merge.
fn merges(tokens: &[Vec<u8>]) -> Vec<(u32, u32)> {
    let ranks: HashMap<&[u8], u32, ahash::RandomState> =
        tokens.iter().zip(0..).map(|(token, rank)| (token.as_slice(), rank)).collect();
    let mut merges = Vec::with_capacity(tokens.len() * 2);
    let mut of_token = Vec::new();
    for token in tokens {
        let cuts = (1..token.len()).map(|at| token.split_at(at));
        of_token.extend(cuts.filter_map(|(a, b)| Some((*ranks.get(a)?, *ranks.get(b)?))));
        of_token.sort_unstable();
        merges.append(&mut of_token);
    }
    merges
}
