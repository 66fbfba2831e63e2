//! Stop strings: text is held back while it could still become one, across the edges of tokens.

use crate::wire::logprobs::TokenLogprob;

/// Lets text through until a stop string comes; the stop string itself never gets through.
#[derive(Debug, Default)]
pub(crate) struct StopGate {
    stops: Vec<String>,
    held: String,
    /// Tokens not yet let through, each with the offset in the whole text where its own text begins.
    tokens: Vec<(usize, TokenLogprob)>,
    /// Bytes that came in and that went out.
    num_in: usize,
    num_out: usize,
}

/// What came through the gate.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Passed {
    pub(crate) text: String,
    pub(crate) logprobs: Vec<TokenLogprob>,
    /// Whether a stop string came: nothing follows.
    pub(crate) stopped: bool,
}

impl StopGate {
    /// A gate for these stop strings, none of them empty.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        debug_assert!(
            stops.iter().all(|stop| !stop.is_empty()),
            "an empty stop string stops before the text"
        );
        Self { stops, ..Self::default() }
    }

    /// Takes note of the token whose text comes next (perhaps not yet: a token may hold half a character).
    pub(crate) fn push_token(&mut self, token: TokenLogprob) {
        self.tokens.push((self.num_in, token));
    }

    /// Takes text in.
    pub(crate) fn push(&mut self, text: &str) -> Passed {
        self.held.push_str(text);
        self.num_in += text.len();
        match self.first_match() {
            Some(at) => Passed { stopped: true, ..self.release(at) },
            None => self.release(self.held.len() - self.partial_match()),
        }
    }

    /// The text is over: nothing can become a stop string any more.
    pub(crate) fn finish(&mut self) -> Passed {
        let mut passed = self.release(self.held.len());
        passed.logprobs.extend(self.tokens.drain(..).map(|(_, token)| token));
        passed
    }

    /// Offset in `held` of the stop string that begins first.
    fn first_match(&self) -> Option<usize> {
        self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min()
    }

    /// Length of the longest end of `held` that begins a stop string.
    fn partial_match(&self) -> usize {
        let longest = |stop: &String| {
            let ends = stop.char_indices().map(|(at, _)| at).skip(1);
            ends.filter(|&at| self.held.ends_with(&stop[..at])).last().unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }

    fn release(&mut self, len: usize) -> Passed {
        let rest = self.held.split_off(len);
        let text = std::mem::replace(&mut self.held, rest);
        self.num_out += text.len();
        let num_released = self.tokens.partition_point(|(start, _)| *start < self.num_out);
        let logprobs = self.tokens.drain(..num_released).map(|(_, token)| token).collect();
        Passed { text, logprobs, stopped: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut gate = StopGate::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut out = Vec::new();
        for piece in pieces {
            let passed = gate.push(piece);
            out.push(passed.text);
            if passed.stopped {
                return (out, true);
            }
        }
        out.push(gate.finish().text);
        (out, false)
    }

    #[test]
    fn holds_back_what_may_become_a_stop() {
        type Case = (&'static [&'static str], &'static [&'static str], &'static [&'static str], bool);
        let cases: [Case; 8] = [
            (&[], &["a", "b"], &["a", "b", ""], false),
            (&["END"], &["xE", "N", "D y"], &["x", "", ""], true),
            (&["END"], &["xE", "N", "e"], &["x", "", "ENe", ""], false),
            (&["END"], &["xEN"], &["x", "EN"], false),
            (&["aab"], &["aa", "ab"], &["", "a"], true),
            (&["\n\n", "b"], &["a\n", "b"], &["a", "\n"], true),
            (&["éé"], &["xé", "éy"], &["x", ""], true),
            (&["abc", "b"], &["ab"], &["a"], true),
        ];
        for (stops, pieces, expected, stopped) in cases {
            let (out, found) = run(stops, pieces);
            assert_eq!(
                (out.as_slice(), found),
                (expected.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>().as_slice(), stopped),
                "{stops:?} {pieces:?}"
            );
        }
    }

    fn token(text: &str) -> TokenLogprob {
        TokenLogprob { token: text.to_owned(), logprob: -1.0, bytes: text.into(), top_logprobs: Vec::new() }
    }

    #[test]
    fn tokens_come_out_with_their_text() {
        let mut gate = StopGate::new(vec!["STOP".to_owned()]);
        gate.push_token(token("half"));
        assert_eq!(gate.push(""), Passed::default());
        gate.push_token(token("é ST"));
        let passed = gate.push("é ST");
        assert_eq!((passed.text.as_str(), passed.logprobs.len()), ("é ", 2));
        gate.push_token(token("OP"));
        let passed = gate.push("OP");
        assert!(passed.stopped && passed.text.is_empty() && passed.logprobs.is_empty());
    }
}
