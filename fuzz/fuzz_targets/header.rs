//! The input chooses among the tokens that the envelope allows: what comes out has a legal header.
#![no_main]

mod tokenizer;

use libfuzzer_sys::fuzz_target;
use ossia_harmony::{Allowed, EnvelopeGrammar, EnvelopeOptions, ParserEvent, Scope, StreamableParser};
use tokenizer::{TOKENIZER, tokens};

fuzz_target!(|data: &[u8]| {
    let recipients = ["functions.f", "functions.find", "crm.find", "python"].map(str::to_owned).to_vec();
    let options = EnvelopeOptions { recipients: recipients.clone(), ..EnvelopeOptions::default() };
    let mut grammar = EnvelopeGrammar::new(&TOKENIZER, &options).expect("legal options");
    let mut parser = StreamableParser::new(TOKENIZER.clone());
    for (&byte, token) in data.iter().zip(tokens(data)) {
        if grammar.scope() == Scope::Done {
            break;
        }
        let token = match grammar.allowed() {
            Allowed::Only(ids) => ids[byte as usize % ids.len()],
            Allowed::Except(ids) if ids.binary_search(&token).is_ok() => continue,
            _ => token,
        };
        grammar.accept(token);
        assert_ne!(grammar.scope(), Scope::Unknown);
        for event in parser.push(token) {
            if let ParserEvent::MessageStart(header) = event {
                assert!(header.recipient.is_none_or(|name| recipients.contains(&name)));
                assert_eq!(header.unknown_channel, None);
            }
        }
    }
});
