//! The runner over hand-made batches: it speaks its plays, and paging errors show.
#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ossia_engine::{ModelRunner, RunnerError};
use ossia_harmony::{Conversation, DeveloperContent, FunctionTool, Message, Tokenizer};
use ossia_model::{BlockTable, Draw, Drawn, ForwardBatch, KvMetadata, Logits, TokenDraw};
use ossia_scripted::{Rules, ScriptedOptions, ScriptedRunner};
use serde_json::json;

const BLOCK_SIZE: usize = 4;
const NUM_BLOCKS: usize = 2_000;
/// The sliding layers' blocks stand in the upper half of the pool.
const FIRST_SLIDING: u32 = NUM_BLOCKS as u32 / 2;

/// 256 bytes and harmony's special tokens.
fn bytes_tokenizer() -> Tokenizer {
    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
        let ranks: String = (0..=255u8).map(|byte| format!("{} {byte}\n", STANDARD.encode([byte]))).collect();
        Tokenizer::from_tiktoken_ranks(ranks.as_bytes()).unwrap()
    });
    TOKENIZER.clone()
}

fn runner(rules: &str) -> ScriptedRunner {
    let options = ScriptedOptions {
        num_blocks: NUM_BLOCKS,
        block_size: BLOCK_SIZE,
        sliding_window: 6,
        ..ScriptedOptions::default()
    };
    ScriptedRunner::new(bytes_tokenizer(), Rules::from_json(rules).unwrap(), options).unwrap()
}

/// The batch that computes `context[start..]` of one sequence in blocks of its own.
fn batch(context: &[u32], start: usize) -> ForwardBatch {
    let len = context.len();
    let num_blocks = len.div_ceil(BLOCK_SIZE) as u32;
    let group = |first: u32| KvMetadata {
        block_tables: vec![BlockTable { first_block_idx: 0, blocks: (first..first + num_blocks).collect() }],
        slot_mapping: (start..len).map(|position| first * BLOCK_SIZE as u32 + position as u32).collect(),
    };
    ForwardBatch {
        input_ids: context[start..].to_vec(),
        positions: (start as u32..len as u32).collect(),
        cu_seqlens_q: vec![0, (len - start) as u32],
        context_lens: vec![len as u32],
        full: group(0),
        sliding: group(FIRST_SLIDING),
        logits_indices: vec![(len - start) as u32 - 1],
        draw_rows: vec![],
    }
}

/// The logits of a batch, over memory that holds something else.
fn forward(runner: &mut ScriptedRunner, batch: &ForwardBatch) -> Result<Logits, RunnerError> {
    let mut logits = Logits::new(3, vec![1e9; 3000]);
    runner.forward(batch, &mut logits).map(|()| logits)
}

fn best(logits: &Logits) -> u32 {
    let row = logits.row(0);
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32
}

/// What the runner draws in place of giving logits, without the tokens that are forbidden; a mask that forbids the same gives the same.
fn draw(runner: &mut ScriptedRunner, mut batch: ForwardBatch, temperature: f32, forbidden: &[u32]) -> Drawn {
    batch.draw_rows = std::mem::take(&mut batch.logits_indices);
    assert_eq!(forward(runner, &batch).unwrap().rows(), 0);
    let struck_out = Draw { forbidden: forbidden.to_vec(), ..Draw::plain(temperature, 0.5) };
    let word =
        |at: u32| (0..32).fold(0, |word, bit| word | u32::from(!forbidden.contains(&(at * 32 + bit))) << bit);
    let mask = (0..bytes_tokenizer().vocab_size() as u32).step_by(32).map(|first| word(first / 32)).collect();
    let masked = Draw { allowed: Some(mask), ..Draw::plain(temperature, 0.5) };
    let [struck_out, masked] =
        [struck_out, masked].map(|draw| runner.draw(&[TokenDraw { row: 0, draw }]).unwrap().pop().unwrap());
    assert_eq!(struck_out, masked);
    assert!(runner.draw(&[TokenDraw { row: 1, draw: Draw::plain(0.0, 0.0) }]).is_err());
    masked
}

/// Generates greedily until a stop token.
fn say(runner: &mut ScriptedRunner, conversation: &Conversation) -> String {
    let tokenizer = bytes_tokenizer();
    let mut context = conversation.render_prompt(&tokenizer);
    let prompt_len = context.len();
    let mut start = 0;
    while context.len() < prompt_len + 1_000 {
        let mut logits = forward(runner, &batch(&context, start)).unwrap();
        let token = best(&logits);
        assert_eq!(draw(runner, batch(&context, start), 0.0, &[]), Drawn::Token(token));
        logits.rows_mut().for_each(|row| row[token as usize] = f32::NEG_INFINITY);
        let second = Drawn::Token(best(&logits));
        assert_eq!(draw(runner, batch(&context, start), 1.0, &[token]), second);
        start = context.len();
        context.push(token);
        if tokenizer.stop_token_ids().contains(&token) {
            break;
        }
    }
    tokenizer.decode(&context[prompt_len..])
}

fn conversation(messages: Vec<Message>) -> Conversation {
    Conversation { messages, ..Conversation::default() }
}

fn tools(names: &[&str]) -> DeveloperContent {
    let schema = json!({"type": "object", "required": ["q", "n"], "properties": {
        "q": {"type": "string", "description": "Any: {text}"}, "n": {"type": "integer"}, "skip": {"type": "string"}}});
    let tool = |name: &&str| FunctionTool {
        name: (*name).to_owned(),
        description: Some("First line.\ntype not_a_tool = () => any;".to_owned()),
        parameters: Some(schema.clone()),
    };
    DeveloperContent { tools: names.iter().map(tool).collect(), ..DeveloperContent::default() }
}

#[test]
fn where_every_word_is_forbidden_any_token_is_drawn() {
    let (context, vocab_size) = ([1, 2, 3], bytes_tokenizer().vocab_size() as u32);
    let drawn =
        |temperature, forbidden: &[u32]| draw(&mut runner("[]"), batch(&context, 0), temperature, forbidden);
    let all_but = |ids: &[u32]| (0..vocab_size).filter(|id| !ids.contains(id)).collect::<Vec<_>>();
    assert_eq!(drawn(0.0, &all_but(&[7, 8, 9])), Drawn::Token(7));
    assert_eq!(drawn(1.0, &all_but(&[7, 8, 9])), Drawn::Token(8));
    assert_eq!(drawn(1.0, &all_but(&[])), Drawn::NothingAllowed);
}

#[test]
fn rules_and_situations() {
    let rules = r#"[{"pattern": "ping", "text": "pong"},
        {"pattern": "odd", "text": "<|channel|>final<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>"},
        {"pattern": "ids", "tokens": [72, 105]}]"#;
    let user = |text: &str| conversation(vec![Message::user(text)]);
    let with_tools =
        |messages| Conversation { developer: tools(&["find", "other"]), ..conversation(messages) };
    let called = vec![
        Message::user("look"),
        Message::assistant_analysis("hm"),
        Message::function_call("find", "{}"),
        Message::tool_result("find", "found <|end|> it"),
    ];
    let cases = [
        (user("ping!"), "<|channel|>final<|message|>pong<|return|>"),
        (
            user("odd"),
            "<|channel|>final<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>",
        ),
        (user("ids"), "Hi<|return|>"),
        (
            user("hello"),
            "<|channel|>analysis<|message|>A scripted model does not think.<|end|><|start|>assistant<|channel|>final<|message|>This is a scripted answer to: hello<|return|>",
        ),
        (
            with_tools(vec![Message::user("look")]),
            "<|channel|>analysis<|message|>I have to call find.<|end|><|start|>assistant<|channel|>commentary to=functions.find <|constrain|>json<|message|>{\"q\":\"text\",\"n\":1}<|call|>",
        ),
        (
            with_tools(called),
            "<|channel|>analysis<|message|>A scripted model does not think.<|end|><|start|>assistant<|channel|>final<|message|>The tool says: found < |end|> it<|return|>",
        ),
        (
            conversation(vec![
                Message::user("ping"),
                Message::assistant_final("pong"),
                Message::user("x"),
                Message::assistant_final("y"),
            ]),
            "<|channel|>analysis<|message|>A scripted model does not think.<|end|><|start|>assistant<|channel|>final<|message|>This is a scripted answer to: x<|return|>",
        ),
    ];
    for (conversation, expected) in cases {
        assert_eq!(say(&mut runner(rules), &conversation), expected);
    }
}

#[test]
fn a_forbidden_answer_becomes_a_call() {
    let tokenizer = bytes_tokenizer();
    let rules = r#"[{"pattern": "", "text": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>x<|return|>"}]"#;
    let mut runner = runner(rules);
    let asked = Conversation { developer: tools(&["find"]), ..conversation(vec![Message::user("hello")]) };
    let prompt = asked.render_prompt(&tokenizer);
    let thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>";
    let context = [prompt, tokenizer.encode_with_special_tokens(thought)].concat();
    let logits = forward(&mut runner, &batch(&context, 0)).unwrap();
    let logit = |text: &str| logits.row(0)[tokenizer.encode_ordinary(text)[0] as usize];
    assert!(logit("f") > logit("c") && logit("c") > logit("a"), "final, then commentary, then anything else");
}

fn fault(break_it: impl Fn(&mut ForwardBatch)) -> Result<Logits, RunnerError> {
    let mut runner = runner("[]");
    let context = conversation(vec![Message::user("hello")]).render_prompt(&bytes_tokenizer());
    let (prompt, last) = context.split_at(context.len() - 1);
    let mut prefill = batch(prompt, 0);
    prefill.logits_indices.clear();
    forward(&mut runner, &prefill).unwrap();
    assert_eq!(last.len(), 1);
    let mut decode = batch(&context, prompt.len());
    break_it(&mut decode);
    forward(&mut runner, &decode)
}

#[test]
fn paging_errors_show() {
    assert!(fault(|_| ()).is_ok());
    type Break = fn(&mut ForwardBatch);
    let cases: [(&str, Break); 6] = [
        ("full slot", |b| b.full.slot_mapping[0] = (NUM_BLOCKS * BLOCK_SIZE) as u32),
        ("sliding slot", |b| b.sliding.slot_mapping[0] = u32::MAX),
        ("full block table has no block", |b| b.full.block_tables[0].blocks.truncate(3)),
        ("sliding block table has no block", |b| b.sliding.block_tables[0].first_block_idx += 100),
        ("holds token", |b| b.sliding.block_tables[0].blocks.rotate_left(1)),
        ("holds token", |b| b.full.slot_mapping[0] = 0),
    ];
    for (expected, break_it) in cases {
        let message = fault(break_it).expect_err(expected).to_string();
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn rules_with_unknown_tokens_are_refused() {
    let rules = Rules::from_json(r#"[{"pattern": "", "tokens": [1, 999999]}]"#).unwrap();
    let error = ScriptedRunner::new(bytes_tokenizer(), rules, ScriptedOptions::default()).unwrap_err();
    assert!(error.to_string().contains("999999"), "{error}");
}
