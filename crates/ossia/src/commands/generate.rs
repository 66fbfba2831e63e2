//! `ossia generate`: one question, answered on the terminal; reasoning goes to stderr, the answer to stdout.

use std::io::{Write, stderr, stdout};

use anyhow::{Result, bail};
use ossia_engine::{FinishReason, Generation, GenerationEvent, GenerationRequest, SamplingParams};
use ossia_harmony::{Channel, Conversation, Message, ParserEvent, ReasoningEffort, StreamableParser};

use crate::cli::{Effort, GenerateArgs};
use crate::load::{self, Extra, Parts};

/// Streams the answer of a model to one prompt.
pub(crate) fn run(args: &GenerateArgs) -> Result<()> {
    let parts = load::parts(&args.model, &args.engine, &Extra::default())?;
    let generation = parts.engine.submit(request(args, &parts))?;
    print(generation, StreamableParser::new(parts.tokenizer.clone()), args.hide_reasoning)
        .map_err(|error| load::blame_weights(&args.model, error))
}

fn request(args: &GenerateArgs, parts: &Parts) -> GenerationRequest {
    let mut conversation =
        Conversation { messages: vec![Message::user(&args.prompt)], ..Conversation::default() };
    conversation.system.reasoning_effort = match args.effort {
        Effort::Low => ReasoningEffort::Low,
        Effort::Medium => ReasoningEffort::Medium,
        Effort::High => ReasoningEffort::High,
    };
    let prompt = conversation.render_prompt(&parts.tokenizer);
    GenerationRequest {
        sampling: SamplingParams {
            temperature: args.temperature,
            seed: args.seed,
            ..SamplingParams::default()
        },
        stop_token_ids: parts.tokenizer.stop_token_ids().to_vec(),
        ..GenerationRequest::new(prompt, args.max_tokens)
    }
}

fn print(mut generation: Generation, mut parser: StreamableParser, hide_reasoning: bool) -> Result<()> {
    let mut channel = Channel::Final;
    let mut show = |events: Vec<ParserEvent>| -> Result<()> {
        for event in events {
            match event {
                ParserEvent::MessageStart(header) => channel = header.channel,
                ParserEvent::Delta(text) if channel == Channel::Final => write_now(stdout(), &text)?,
                ParserEvent::Delta(text) if !hide_reasoning => write_now(stderr(), &text)?,
                ParserEvent::MessageEnd(_) if channel == Channel::Final => write_now(stdout(), "\n")?,
                ParserEvent::MessageEnd(_) if !hide_reasoning => write_now(stderr(), "\n")?,
                _ => {}
            }
        }
        Ok(())
    };
    while let Some(event) = generation.blocking_next() {
        match event {
            GenerationEvent::Token(token) => show(parser.push(token.id))?,
            GenerationEvent::Finished(FinishReason::Failed(why)) => bail!("the engine failed: {why}"),
            GenerationEvent::Started { .. } | GenerationEvent::Finished(_) => {}
        }
    }
    show(parser.finish())
}

fn write_now(mut out: impl Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
