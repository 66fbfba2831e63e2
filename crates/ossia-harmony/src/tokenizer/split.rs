//! The o200k pre-tokeniser: cuts text into the pieces within which byte pairs merge.
//!
//! It finds exactly the matches of [`O200K_PATTERN`], by hand: the pattern needs look-ahead, and backtracking
//! engines take quadratic time on long runs of blanks and give up on them, which no server can afford.

use std::sync::LazyLock;

/// The pattern of o200k_base and o200k_harmony, as it stands in tokenizer.json.
pub(crate) const O200K_PATTERN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// `\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}`: may stand in the first part of a word.
const HEAD: u8 = 1;
/// `\p{Ll}\p{Lm}\p{Lo}\p{M}`: may stand in the second part of a word.
const TAIL: u8 = 2;
/// `\p{L}`.
const LETTER: u8 = 4;
/// `\p{N}`.
const NUMBER: u8 = 8;
/// `\s`.
const SPACE: u8 = 16;

/// Class bits of every code point, from the tables of the regex crates, so that both agree.
static CLASSES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut classes = vec![0u8; char::MAX as usize + 1];
    let sets = [
        (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", HEAD),
        (r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", TAIL),
        (r"\p{L}", LETTER),
        (r"\p{N}", NUMBER),
        (r"\s", SPACE),
    ];
    for (pattern, bit) in sets {
        let hir = regex_syntax::parse(pattern).expect("the five class patterns are valid");
        let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = hir.kind() else {
            unreachable!("{pattern} is a Unicode class");
        };
        for range in class.ranges() {
            classes[range.start() as usize..=range.end() as usize].iter_mut().for_each(|bits| *bits |= bit);
        }
    }
    classes
});

/// The pieces of `text`; joined they are `text` again.
pub(crate) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let classes: &[u8] = &CLASSES;
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let len = piece_len(classes, rest, first);
        let (piece, tail) = rest.split_at(len);
        rest = tail;
        Some(piece)
    })
}

/// Bytes of the first match in `text`, whose first character is `first`. At least that character.
fn piece_len(classes: &[u8], text: &str, first: char) -> usize {
    if let Some(len) = word_len(classes, text, first) {
        return len + contraction_len(&text[len..]);
    }
    let class = classes[first as usize];
    if class & NUMBER != 0 {
        return run_len(text, 3, |c| classes[c as usize] & NUMBER != 0);
    }
    let symbols_at = usize::from(first == ' ');
    let symbols =
        run_len(&text[symbols_at..], usize::MAX, |c| classes[c as usize] & (SPACE | LETTER | NUMBER) == 0);
    if symbols > 0 {
        let len = symbols_at + symbols;
        return len + run_len(&text[len..], usize::MAX, |c| matches!(c, '\r' | '\n' | '/'));
    }
    blank_len(classes, text)
}

/// A word with at most one character before it; `None` if no word begins here.
fn word_len(classes: &[u8], text: &str, first: char) -> Option<usize> {
    let class = classes[first as usize];
    if class & (LETTER | NUMBER) == 0 && first != '\r' && first != '\n' {
        let prefix = first.len_utf8();
        if let Some(len) = bare_word_len(classes, &text[prefix..], true) {
            return Some(prefix + len);
        }
        // A mark is both a possible prefix and a possible word, and a word of capitals comes second in the pattern.
        if let Some(len) = bare_word_len(classes, text, true) {
            return Some(len);
        }
        return bare_word_len(classes, &text[prefix..], false).map(|len| prefix + len);
    }
    bare_word_len(classes, text, true).or_else(|| bare_word_len(classes, text, false))
}

/// A word without prefix: `HEAD* TAIL+` if `tailed`, else `HEAD+`.
fn bare_word_len(classes: &[u8], text: &str, tailed: bool) -> Option<usize> {
    let (mut head, mut last_tail) = (0, None);
    for c in text.chars().take_while(|&c| classes[c as usize] & HEAD != 0) {
        head += c.len_utf8();
        if classes[c as usize] & TAIL != 0 {
            last_tail = Some(head);
        }
    }
    if !tailed {
        return (head > 0).then_some(head);
    }
    let tail = run_len(&text[head..], usize::MAX, |c| classes[c as usize] & TAIL != 0);
    if tail > 0 { Some(head + tail) } else { last_tail }
}

/// `'s 't 're 've 'm 'll 'd` in any case (long s folds to s), or nothing.
fn contraction_len(text: &str) -> usize {
    let Some(rest) = text.strip_prefix('\'') else {
        return 0;
    };
    let mut chars = rest.chars();
    let (first, second) = (chars.next(), chars.next());
    match (first.map(|c| c.to_ascii_lowercase()), second.map(|c| c.to_ascii_lowercase())) {
        (Some('s' | 't' | 'm' | 'd'), _) => 2,
        (Some('\u{17f}'), _) => 1 + '\u{17f}'.len_utf8(),
        (Some('r' | 'v'), Some('e')) | (Some('l'), Some('l')) => 3,
        _ => 0,
    }
}

/// A run of blanks: up to its last line break; else all at the end of the text; else all but the last one.
fn blank_len(classes: &[u8], text: &str) -> usize {
    let (mut len, mut after_break, mut before_last) = (0, 0, 0);
    for c in text.chars().take_while(|&c| classes[c as usize] & SPACE != 0) {
        before_last = len;
        len += c.len_utf8();
        if matches!(c, '\r' | '\n') {
            after_break = len;
        }
    }
    match (after_break, before_last) {
        (1.., _) => after_break,
        (0, 1..) if len < text.len() => before_last,
        _ => len,
    }
}

/// Bytes of the longest run of at most `max` characters that satisfy `is`.
fn run_len(text: &str, max: usize, is: impl Fn(char) -> bool) -> usize {
    text.chars().take(max).take_while(|&c| is(c)).map(char::len_utf8).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn library_pieces(text: &str) -> Vec<String> {
        use tokenizers::{
            OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
        };
        static SPLIT: LazyLock<tokenizers::pre_tokenizers::split::Split> = LazyLock::new(|| {
            let pattern = tokenizers::pre_tokenizers::split::SplitPattern::Regex(O200K_PATTERN.to_owned());
            tokenizers::pre_tokenizers::split::Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .expect("the pattern compiles")
        });
        let mut pretokenized = PreTokenizedString::from(text);
        SPLIT.pre_tokenize(&mut pretokenized).expect("splitting short text works");
        let splits = pretokenized.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(piece, _, _)| piece.to_owned()).collect()
    }

    #[test]
    fn cuts_where_the_pattern_cuts() {
        let cases = [
            "",
            " ",
            "  ",
            "   x",
            "\n",
            " \n ",
            " \n x",
            "\r\n\r\n  y",
            "Hello world",
            "HELLO World's",
            "don't DON'T",
            "it\u{17f}'\u{17f} x'S",
            "12345 678",
            "a1b2",
            "!!!\n\n/x",
            " !!",
            " /\n",
            "中文 text",
            "A中B",
            "ABC",
            "éCole",
            "\u{301}a",
            " \u{301}A",
            "x\u{301}",
            "!\u{301}A",
            "\u{301}AB",
            "\t\tfoo",
            "ǅ ǅa",
            "²³",
            "<|start|>user",
        ];
        for case in cases {
            assert_eq!(pieces(case).collect::<Vec<_>>(), library_pieces(case), "{case:?}");
        }
    }

    #[test]
    fn takes_linear_time_on_long_runs() {
        for unit in [" ", "\n", "a", "A", "中", "!", "\u{301}", "1", "A中", " \n"] {
            let text = unit.repeat(300_000);
            assert_eq!(pieces(&text).map(str::len).sum::<usize>(), text.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn agrees_with_the_library(
            text in r"([ \t\r\n/'!._]|[a-zA-Z]|[0-9²½]|'(s|t|re|ve|m|ll|d|S|LL|ſ)|[éÉßǅʰªא中あ한]|[\u{301}\u{20dd}\u{93e}]|[\u{a0}\u{3000}\u{85}\u{200b}]|\PC){0,24}"
        ) {
            prop_assert_eq!(pieces(&text).collect::<Vec<_>>(), library_pieces(&text));
        }
    }
}
