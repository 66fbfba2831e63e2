//! The same conversation through the openai-harmony crate.

use std::collections::BTreeMap;

use openai_harmony::chat as theirs;
use openai_harmony::{HarmonyEncoding, HarmonyEncodingName, ParseOptions, load_harmony_encoding};
use ossia_harmony::{
    BuiltinTool, Channel, Conversation, DeveloperContent, FunctionTool, Message, ParserEvent,
    ReasoningEffort, Role, StreamableParser, SystemContent, Tokenizer, ToolNamespace,
};

pub(crate) fn encoding() -> HarmonyEncoding {
    load_harmony_encoding(HarmonyEncodingName::HarmonyGptOss).unwrap()
}

pub(crate) fn prompt(encoding: &HarmonyEncoding, conversation: &Conversation) -> Vec<u32> {
    let last_final = conversation.messages.iter().filter(|message| message.is_final()).count();
    let messages = messages(conversation, last_final);
    encoding.render_conversation_for_completion(&messages, theirs::Role::Assistant, None).unwrap()
}

pub(crate) fn training(encoding: &HarmonyEncoding, conversation: &Conversation) -> Vec<u32> {
    let before = conversation.messages.split_last().map_or(&[][..], |(_, before)| before);
    let finals_before = before.iter().filter(|message| message.is_final()).count();
    encoding.render_conversation_for_training(&messages(conversation, finals_before), None).unwrap()
}

/// All messages but the analysis that stands before the `num_completed`th final message.
fn messages(conversation: &Conversation, num_completed: usize) -> Vec<theirs::Message> {
    let mut all = vec![theirs::Message::from_role_and_content(
        theirs::Role::System,
        system(&conversation.system, &conversation.developer),
    )];
    if !conversation.developer.is_empty() {
        let content = developer(&conversation.developer);
        all.push(theirs::Message::from_role_and_content(theirs::Role::Developer, content));
    }
    let mut finals_left = num_completed;
    for message in &conversation.messages {
        if finals_left > 0 && message.channel == Some(Channel::Analysis) {
            continue;
        }
        finals_left -= usize::from(finals_left > 0 && message.is_final());
        all.push(self::message(message));
    }
    all
}

/// A parsed message: channel, recipient, content type, text.
pub(crate) type Parsed = (Option<String>, Option<String>, Option<String>, String);

pub(crate) fn parse(encoding: &HarmonyEncoding, ids: &[u32]) -> Vec<Parsed> {
    parse_with(encoding, ids, ParseOptions::default())
}

/// As the crate reads malformed headers when it is told to.
pub(crate) fn parse_lenient(encoding: &HarmonyEncoding, ids: &[u32]) -> Vec<Parsed> {
    parse_with(encoding, ids, ParseOptions { strict: false })
}

fn parse_with(encoding: &HarmonyEncoding, ids: &[u32], options: ParseOptions) -> Vec<Parsed> {
    let role = Some(theirs::Role::Assistant);
    let messages = encoding
        .parse_messages_from_completion_tokens_with_options(ids.iter().copied(), role, options)
        .unwrap();
    let text = |message: &theirs::Message| match &message.content[..] {
        [theirs::Content::Text(text)] => text.text.clone(),
        other => panic!("{other:?}"),
    };
    messages
        .into_iter()
        .map(|message| {
            (message.channel.clone(), message.recipient.clone(), message.content_type.clone(), text(&message))
        })
        .collect()
}

pub(crate) fn parse_ours(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<Parsed> {
    let mut parser = StreamableParser::new(tokenizer.clone());
    let mut events: Vec<_> = ids.iter().flat_map(|&id| parser.push(id)).collect();
    events.extend(parser.finish());
    let mut messages: Vec<Parsed> = Vec::new();
    for event in events {
        match event {
            ParserEvent::MessageStart(header) => {
                let channel = Some(header.channel.as_str().to_owned());
                messages.push((channel, header.recipient, header.content_type, String::new()));
            }
            ParserEvent::Delta(delta) => messages.last_mut().unwrap().3.push_str(&delta),
            ParserEvent::MessageEnd(_) => {}
        }
    }
    messages
}

fn message(message: &Message) -> theirs::Message {
    let role = match message.author.role {
        Role::System => theirs::Role::System,
        Role::Developer => theirs::Role::Developer,
        Role::User => theirs::Role::User,
        Role::Assistant => theirs::Role::Assistant,
        Role::Tool => theirs::Role::Tool,
    };
    theirs::Message {
        author: theirs::Author { role, name: message.author.name.clone() },
        recipient: message.recipient.clone(),
        content: vec![theirs::Content::from(message.content.clone())],
        channel: message.channel.map(|channel| channel.as_str().to_owned()),
        content_type: message.content_type.clone(),
    }
}

fn system(system: &SystemContent, developer: &DeveloperContent) -> theirs::SystemContent {
    let channels: &[&str] =
        if developer.has_tools() { &["analysis", "commentary", "final"] } else { &["analysis", "final"] };
    let mut content = theirs::SystemContent {
        model_identity: system.model_identity.clone(),
        reasoning_effort: Some(match system.reasoning_effort {
            ReasoningEffort::Low => theirs::ReasoningEffort::Low,
            ReasoningEffort::Medium => theirs::ReasoningEffort::Medium,
            ReasoningEffort::High => theirs::ReasoningEffort::High,
        }),
        tools: None,
        conversation_start_date: system.current_date.clone(),
        knowledge_cutoff: system.knowledge_cutoff.clone(),
        channel_config: Some(theirs::ChannelConfig::require_channels(channels.iter().copied())),
    };
    for tool in &system.builtin_tools {
        content = match tool {
            BuiltinTool::Browser => content.with_browser_tool(),
            BuiltinTool::Python => content.with_python_tool(),
        };
    }
    content
}

fn developer(developer: &DeveloperContent) -> theirs::DeveloperContent {
    let mut instructions = developer.instructions.clone();
    if let Some(format) = &developer.response_format {
        let comment: String = format
            .description
            .iter()
            .flat_map(|text| text.lines())
            .map(|line| format!("// {line}\n"))
            .collect();
        let section = format!("\n\n# Response Formats\n\n## {}\n\n{comment}{}", format.name, format.schema);
        instructions.as_mut().unwrap().push_str(&section);
    }
    let mut tools = BTreeMap::new();
    if !developer.tools.is_empty() {
        let functions = theirs::ToolNamespaceConfig::new("functions", None, self::tools(&developer.tools));
        tools.insert("functions".to_owned(), functions);
    }
    for ToolNamespace { name, description, tools: members } in &developer.namespaces {
        let namespace =
            theirs::ToolNamespaceConfig::new(name.clone(), description.clone(), self::tools(members));
        tools.insert(name.clone(), namespace);
    }
    theirs::DeveloperContent { instructions, tools: (!tools.is_empty()).then_some(tools) }
}

fn tools(tools: &[FunctionTool]) -> Vec<theirs::ToolDescription> {
    let description = |tool: &FunctionTool| tool.description.clone().unwrap_or_default();
    tools
        .iter()
        .map(|tool| {
            theirs::ToolDescription::new(tool.name.clone(), description(tool), tool.parameters.clone())
        })
        .collect()
}
