//! The text of the system message.

use crate::{BuiltinTool, Channel, DeveloperContent, SystemContent};

use super::tools;

/// The system message. The valid channels depend on the developer's tools: without any, the model has no business
/// on the commentary channel, and text it would put there is text that clients do not see.
pub(super) fn text(system: &SystemContent, developer: &DeveloperContent) -> String {
    let mut sections = Vec::new();
    let facts = [
        system.model_identity.clone(),
        system.knowledge_cutoff.as_ref().map(|cutoff| format!("Knowledge cutoff: {cutoff}")),
        system.current_date.as_ref().map(|date| format!("Current date: {date}")),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().collect();
    if !facts.is_empty() {
        sections.push(facts.join("\n"));
    }
    sections.push(format!("Reasoning: {}", system.reasoning_effort.as_str()));
    let mut builtin = system.builtin_tools.clone();
    builtin.sort_unstable();
    builtin.dedup();
    if !builtin.is_empty() {
        let namespaces: Vec<_> = builtin.into_iter().map(BuiltinTool::namespace).collect();
        sections.push(tools::section(namespaces.iter().map(tools::Namespace::from)));
    }
    sections.push(channels(developer));
    sections.join("\n\n")
}

fn channels(developer: &DeveloperContent) -> String {
    let valid: Vec<&str> = Channel::ALL
        .into_iter()
        .filter(|&channel| channel != Channel::Commentary || developer.has_tools())
        .map(Channel::as_str)
        .collect();
    let mut text =
        format!("# Valid channels: {}. Channel must be included for every message.", valid.join(", "));
    if !developer.tools.is_empty() {
        text.push_str("\nCalls to these tools must go to the commentary channel: 'functions'.");
    }
    text
}
