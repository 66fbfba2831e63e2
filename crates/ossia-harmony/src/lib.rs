//! The harmony prompt format: tokenizer, render, total streaming parser, envelope grammar.
//!
//! gpt-oss reads and writes *harmony*: messages with a header (author, channel, recipient, content type) between
//! special tokens. This crate is the whole way from a conversation to token ids and from sampled token ids back to
//! events, and the mask that keeps what is sampled well-formed. It does no I/O but to read a tokenizer file, and it
//! knows neither the engine nor the HTTP API.
//!
//! ```text
//! Conversation --render_prompt--> token ids --engine--> token ids --StreamableParser--> MessageStart, Delta, MessageEnd
//!                                              ^ TurnGrammar: what may be sampled next, that is
//!                                                EnvelopeGrammar in headers, a ContentGrammar inside messages
//! ```
//!
//! # Example
//! ```
//! use ossia_harmony::{
//!     Allowed, Conversation, DeveloperContent, EnvelopeGrammar, EnvelopeOptions, FunctionTool, Message, ParserEvent,
//!     StreamableParser, Tokenizer,
//! };
//!
//! # use base64::{Engine, engine::general_purpose::STANDARD};
//! # let ranks: String = (0..=255u8).map(|byte| format!("{} {byte}\n", STANDARD.encode([byte]))).collect();
//! # let ranks = ranks.as_bytes();
//! // From a checkpoint: Tokenizer::from_file("tokenizer.json".as_ref())?
//! let tokenizer = Tokenizer::from_tiktoken_ranks(ranks)?;
//!
//! let weather = FunctionTool { name: "get_weather".into(), description: None, parameters: None };
//! let conversation = Conversation {
//!     developer: DeveloperContent { tools: vec![weather], ..Default::default() },
//!     messages: vec![Message::user("Is it raining?")],
//!     ..Default::default()
//! };
//! let prompt = conversation.render_prompt(&tokenizer);
//! assert!(tokenizer.decode(&prompt).ends_with("<|start|>user<|message|>Is it raining?<|end|><|start|>assistant"));
//!
//! // What the model may say, and what it said.
//! let recipients = conversation.developer.recipients();
//! let mut grammar = EnvelopeGrammar::new(&tokenizer, &EnvelopeOptions { recipients, ..Default::default() })?;
//! let mut parser = StreamableParser::new(tokenizer.clone());
//! let output = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{}<|call|>";
//! let mut events = Vec::new();
//! for id in tokenizer.encode_with_special_tokens(output) {
//!     if let Allowed::Only(ids) = grammar.allowed() {
//!         assert!(ids.contains(&id));
//!     }
//!     grammar.accept(id);
//!     events.extend(parser.push(id));
//! }
//! let [ParserEvent::MessageStart(header), .., ParserEvent::MessageEnd(end)] = &events[..] else { panic!() };
//! assert_eq!(header.function_name(), Some("get_weather"));
//! assert_eq!(end.num_content_tokens, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is promised
//! - Rendering is the openai-harmony crate's, token for token; `tests/differential` lists the few differences.
//! - Text of users that looks like a special token is encoded as plain text.
//! - The parser accepts every sequence of tokens; no text is lost; `stream == non-stream`, for there is only the stream.
//! - Under the mask only legal headers can be sampled, with recipients from the declared ones, in whichever way the
//!   vocabulary cuts their text.

mod conversation;
mod envelope;
mod error;
mod grammar;
mod parser;
mod render;
mod special;
mod tokenizer;

pub use conversation::{
    Author, BuiltinTool, CONSTRAIN_JSON, Channel, Conversation, DEFAULT_KNOWLEDGE_CUTOFF,
    DEFAULT_MODEL_IDENTITY, DeveloperContent, FunctionTool, Message, ReasoningEffort, ResponseFormat, Role,
    SystemContent, ToolNamespace,
};
pub use envelope::{Allowed, EnvelopeGrammar, EnvelopeOptions, Scope};
pub use error::HarmonyError;
pub use grammar::{ContentGrammar, GrammarCompiler, GrammarScope, GrammarSource, TurnGrammar};
pub use parser::{EndReason, Header, MessageEnd, ParserEvent, StreamableParser};
pub use special::SpecialToken;
pub use tokenizer::{Detokenizer, Tokenizer};
