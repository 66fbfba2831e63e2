//! Our rendering against the openai-harmony crate's, token for token, on random conversations and tool schemas.
//!
//! Known differences, each on purpose:
//! 1. Valid channels. The crate lists analysis, commentary and final unless told otherwise. We list commentary only
//!    when the developer declares tools, so the crate is told the channels that we derive.
//! 2. Chain of thought. The crate's automatic dropping stops at the *first* final message and is off as soon as the
//!    last assistant message is not a final one, so stale analysis stays in every tool loop after the first turn.
//!    We drop the analysis of all completed turns. The test drops it by a rule of its own and lets the crate render
//!    what is left.
//! 3. A message to the recipient `all` is rendered by the crate without a recipient, yet ended by `<|call|>`. We end
//!    it by `<|end|>`. Not generated here.
//! 4. A tool's message without a name is an error there, and `<|start|>tool` here. Not generated here.
//! 5. Response formats are unknown to the crate; its text is appended to the instructions to compare them.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod covered;
mod generate;
mod reference;

use rand::SeedableRng;
use rand::rngs::StdRng;

const CASES: u64 = 2_500;

/// openai-harmony takes its vocabulary from the folder in an environment variable, which must be there when the
/// process starts: so the test runs itself again with it.
fn in_child_with_vocabulary(test: &str) -> bool {
    const VARIABLE: &str = "TIKTOKEN_ENCODINGS_BASE";
    if std::env::var_os(VARIABLE).is_some() {
        return true;
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(VARIABLE, common::ranks_folder())
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its child process");
    false
}

#[test]
fn random_conversations_render_as_in_the_reference() {
    if !in_child_with_vocabulary("random_conversations_render_as_in_the_reference") {
        return;
    }
    let tokenizer = common::o200k();
    let encoding = reference::encoding();
    let mut num_tokens = 0;
    for seed in 0..CASES {
        let conversation = generate::conversation(&mut StdRng::seed_from_u64(seed));
        let ours = conversation.render_prompt(&tokenizer);
        let theirs = reference::prompt(&encoding, &conversation);
        assert!(
            ours == theirs,
            "seed {seed}\nours:\n{}\n\ntheirs:\n{}\n\n{conversation:#?}",
            tokenizer.decode(&ours),
            tokenizer.decode(&theirs)
        );
        num_tokens += ours.len();

        if seed % 4 == 0 {
            let ours = conversation.render_training(&tokenizer);
            assert_eq!(ours, reference::training(&encoding, &conversation), "training, seed {seed}");
        }
    }
    assert!(num_tokens > CASES as usize * 100, "the generator makes conversations of some length");
}

/// What the reference's parser accepts, ours reads the same way.
#[test]
fn random_turns_parse_as_in_the_reference() {
    if !in_child_with_vocabulary("random_turns_parse_as_in_the_reference") {
        return;
    }
    let tokenizer = common::o200k();
    let encoding = reference::encoding();
    let mut rng = StdRng::seed_from_u64(11);
    for _ in 0..1_000 {
        let ids = generate::assistant_output(&mut rng, &tokenizer);
        let theirs = reference::parse(&encoding, &ids);
        assert_eq!(reference::parse_ours(&tokenizer, &ids), theirs, "{}", tokenizer.decode(&ids));
        assert!(!theirs.is_empty());
    }
}

#[test]
fn random_text_encodes_as_in_the_reference() {
    if !in_child_with_vocabulary("random_text_encodes_as_in_the_reference") {
        return;
    }
    let tokenizer = common::o200k();
    let encoding = reference::encoding();
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..2_000 {
        let text = generate::text(&mut rng, 60);
        assert_eq!(tokenizer.encode_ordinary(&text), encoding.tokenizer().encode_ordinary(&text), "{text:?}");
        let special = tokenizer.encode_with_special_tokens(&text);
        assert_eq!(special, encoding.tokenizer().encode_with_special_tokens(&text), "{text:?}");
        assert_eq!(tokenizer.decode(&special), text);
    }
}
