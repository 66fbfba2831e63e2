//! The parser is total: whatever comes, messages begin and end in pairs and no token is lost.
#![no_main]

mod tokenizer;

use libfuzzer_sys::fuzz_target;
use ossia_harmony::{ParserEvent, StreamableParser};
use tokenizer::{TOKENIZER, tokens};

fuzz_target!(|data: &[u8]| {
    let mut parser = StreamableParser::new(TOKENIZER.clone());
    let mut events: Vec<ParserEvent> = tokens(data).flat_map(|token| parser.push(token)).collect();
    events.extend(parser.finish());
    let mut is_open = false;
    let mut num_tokens = 0;
    for event in events {
        match event {
            ParserEvent::MessageStart(_) => assert!(!std::mem::replace(&mut is_open, true)),
            ParserEvent::Delta(text) => assert!(is_open && !text.is_empty()),
            ParserEvent::MessageEnd(end) => {
                assert!(std::mem::replace(&mut is_open, false));
                num_tokens += end.num_tokens;
            }
        }
    }
    assert!(!is_open && num_tokens <= data.len());
});
