//! What may be said to a prompt: token sequences in order of preference.

use std::time::Duration;

use ossia_harmony::Tokenizer;

use crate::context::Prompt;
use crate::declarations::declarations;
use crate::rules::{Rules, Script};

/// How a chain of thought begins, and how it is followed by the next message.
const THOUGHT: &str = "<|channel|>analysis<|message|>";
const NEXT_MESSAGE: &str = "<|end|><|start|>assistant";
/// Longest quotation in an answer, in characters.
const MAX_QUOTE: usize = 2_000;

/// Everything that may be said to one prompt.
#[derive(Debug)]
pub(crate) struct Plays {
    /// The prompt itself, to recognise it by.
    pub(crate) prompt: Vec<u32>,
    /// Token sequences that follow the prompt, the preferred one first.
    scripts: Vec<Vec<u32>>,
    /// Those of them without a chain of thought: they can also follow one that another script began.
    rests: Vec<Vec<u32>>,
    /// Pause per token.
    pub(crate) delay: Duration,
}

impl Plays {
    /// The plays for what a prompt says. The later ones are for requests that forbid the first: a rule's text comes
    /// first, then what the situation asks for, each with and without a chain of thought.
    pub(crate) fn new(
        tokenizer: &Tokenizer,
        rules: &Rules,
        delay: Duration,
        prompt: &[u32],
        said: &Prompt,
    ) -> Self {
        let rule = rules.find(&said.last_user, !said.tool_results.is_empty());
        let ruled = rule.map(|rule| ruled(tokenizer, &rule.script)).unwrap_or_default();
        let texts = situation(said).into_iter().map(|text| tokenizer.encode_with_special_tokens(&text));
        let scripts: Vec<Vec<u32>> = ruled.into_iter().chain(texts).collect();
        let thought = tokenizer.encode_with_special_tokens(THOUGHT);
        let rests = scripts.iter().filter(|script| !script.starts_with(&thought)).cloned().collect();
        let delay = rule.and_then(|rule| rule.delay).unwrap_or(delay);
        Self { prompt: prompt.to_vec(), scripts, rests, delay }
    }

    /// The tokens that may follow `generated`, in order of preference: first what goes on with a script, then what
    /// takes another way from `message` on, the message that was begun last. Empty where no script fits.
    pub(crate) fn next_tokens(&self, generated: &[u32], message: &[u32]) -> impl Iterator<Item = u32> {
        following(&self.scripts, generated).chain(following(&self.rests, message))
    }
}

/// The tokens that follow `begun` in the scripts that begin with it.
fn following(scripts: &[Vec<u32>], begun: &[u32]) -> impl Iterator<Item = u32> {
    let fitting = scripts.iter().filter(move |script| script.starts_with(begun));
    fitting.filter_map(move |script| script.get(begun.len()).copied())
}

/// What a rule says; text that begins with a chain of thought may also be said without it.
fn ruled(tokenizer: &Tokenizer, script: &Script) -> Vec<Vec<u32>> {
    match script {
        Script::Tokens(ids) => vec![ids.clone()],
        Script::Text(text) => {
            let text = whole(text);
            let thoughtless = text.strip_prefix(THOUGHT).and_then(|rest| rest.split_once(NEXT_MESSAGE));
            let texts = [Some(text.as_str()), thoughtless.map(|(_, rest)| rest)];
            texts.into_iter().flatten().map(|text| tokenizer.encode_with_special_tokens(text)).collect()
        }
    }
}

/// Text without special tokens is a final message.
fn whole(text: &str) -> String {
    if text.contains("<|") { text.to_owned() } else { answer(text) }
}

fn situation(said: &Prompt) -> Vec<String> {
    let calls: Vec<String> = declarations(&said.developer)
        .into_iter()
        .flat_map(|declaration| call(&declaration.name, &declaration.arguments.to_string()))
        .collect();
    let text = match said.tool_results.as_slice() {
        [] => format!("This is a scripted answer to: {}", quote(&said.last_user)),
        results => format!("The tool says: {}", quote(&results.join("\n"))),
    };
    let thought = "A scripted model does not think.";
    let answers = [thoughtful(thought, &answer(&text)), answer(&text)];
    if said.tool_results.is_empty() && !calls.is_empty() {
        return calls.into_iter().chain(answers).collect();
    }
    answers.into_iter().chain(calls).collect()
}

fn answer(text: &str) -> String {
    format!("<|channel|>final<|message|>{}<|return|>", plain(text))
}

/// A call, with and without a chain of thought before it.
fn call(name: &str, arguments: &str) -> [String; 2] {
    let call = format!(
        "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{}<|call|>",
        plain(arguments)
    );
    [thoughtful(&format!("I have to call {name}."), &call), call]
}

fn thoughtful(thought: &str, rest: &str) -> String {
    format!("{THOUGHT}{thought}{NEXT_MESSAGE}{rest}")
}

/// Quoted text must not become special tokens.
fn plain(text: &str) -> String {
    text.replace("<|", "< |")
}

fn quote(text: &str) -> String {
    text.chars().take(MAX_QUOTE).collect()
}
