//! The response object before the first token: what the request said, with OpenAI's defaults filled in.

use super::dialogue::recipient;
use crate::clock;
use crate::ids::new_id;
use crate::wire::poly::TextOrObject;
use crate::wire::responses::{
    ConversationParam, ConversationRef, FunctionTool, Reasoning, Response, ResponseRequest, ResponseStatus,
    ResponseTool, TextConfig, TextFormat,
};

/// A response in progress with an id of its own.
pub(crate) fn response(request: ResponseRequest, model: String) -> Response {
    let background = request.background.unwrap_or(false);
    Response {
        id: new_id("resp_"),
        object: "response",
        created_at: clock::unix_now(),
        status: if background { ResponseStatus::Queued } else { ResponseStatus::InProgress },
        background,
        completed_at: None,
        conversation: request.conversation.map(conversation),
        error: None,
        incomplete_details: None,
        instructions: request.instructions,
        max_output_tokens: request.max_output_tokens,
        max_tool_calls: request.max_tool_calls,
        metadata: request.metadata.unwrap_or_default(),
        model,
        output: Vec::new(),
        parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
        frequency_penalty: request.frequency_penalty.unwrap_or(0.0),
        presence_penalty: request.presence_penalty.unwrap_or(0.0),
        previous_response_id: request.previous_response_id,
        prompt: None,
        prompt_cache_key: request.prompt_cache_key,
        prompt_cache_retention: request.prompt_cache_retention,
        reasoning: reasoning(request.reasoning.unwrap_or_default()),
        safety_identifier: request.safety_identifier,
        service_tier: "default",
        store: request.store.unwrap_or(true),
        temperature: request.temperature.unwrap_or(1.0),
        text: text(request.text.unwrap_or_default()),
        tool_choice: request.tool_choice.unwrap_or_else(|| TextOrObject::Text("auto".to_owned())),
        tools: request.tools.unwrap_or_default().into_iter().map(tool).collect(),
        top_logprobs: request.top_logprobs.unwrap_or(0),
        top_p: request.top_p.unwrap_or(1.0),
        truncation: request.truncation.unwrap_or_else(|| "disabled".to_owned()),
        usage: None,
        user: request.user,
    }
}

fn conversation(asked: ConversationParam) -> ConversationRef {
    match asked {
        TextOrObject::Text(id) => ConversationRef { id },
        TextOrObject::Object(object) => object,
    }
}

fn reasoning(asked: Reasoning) -> Reasoning {
    Reasoning { effort: asked.effort.or_else(|| Some("medium".to_owned())), ..asked }
}

fn text(asked: TextConfig) -> TextConfig {
    let plain =
        || TextFormat { kind: "text".to_owned(), name: None, description: None, schema: None, strict: None };
    TextConfig {
        format: asked.format.or_else(|| Some(plain())),
        verbosity: asked.verbosity.or_else(|| Some("medium".to_owned())),
    }
}

/// Says of the functions whose arguments are not held to their schema that they are not strict.
pub(crate) fn relax(response: &mut Response, is_relaxed: impl Fn(String) -> bool) {
    for tool in &mut response.tools {
        if let ResponseTool::Function(function) = tool
            && is_relaxed(recipient(None, &function.name))
        {
            function.strict = Some(false);
        }
    }
}

fn tool(tool: ResponseTool) -> ResponseTool {
    match tool {
        ResponseTool::Function(function) => {
            let strict = function.strict.or(Some(true));
            ResponseTool::Function(FunctionTool { strict, ..function })
        }
        other => other,
    }
}
