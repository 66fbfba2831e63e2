//! The developer message: instructions, function tools, response formats.

use serde_json::Value;

/// What the developer message says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeveloperContent {
    /// What chat APIs call the system prompt.
    pub instructions: Option<String>,
    /// Tools of the namespace `functions`.
    pub tools: Vec<FunctionTool>,
    /// Further tool namespaces (MCP servers), rendered in the order of their names.
    pub namespaces: Vec<ToolNamespace>,
    /// The format the final message must have.
    pub response_format: Option<ResponseFormat>,
}

impl DeveloperContent {
    /// Whether there is nothing to say, so that no developer message is rendered.
    pub fn is_empty(&self) -> bool {
        self.instructions.is_none()
            && self.tools.is_empty()
            && self.namespaces.iter().all(|namespace| namespace.tools.is_empty())
            && self.response_format.is_none()
    }

    /// Whether the model can call tools on the commentary channel.
    pub fn has_tools(&self) -> bool {
        !self.tools.is_empty() || self.namespaces.iter().any(|namespace| !namespace.tools.is_empty())
    }

    /// The recipients that calls of these tools have, such as `functions.get_weather`.
    pub fn recipients(&self) -> Vec<String> {
        let functions = self.tools.iter().map(|tool| format!("functions.{}", tool.name));
        let others = self.namespaces.iter().flat_map(|namespace| {
            namespace.tools.iter().map(move |tool| format!("{}.{}", namespace.name, tool.name))
        });
        functions.chain(others).collect()
    }
}

/// A function that the model can call.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionTool {
    /// Name without namespace.
    pub name: String,
    /// What it does; each line becomes a comment.
    pub description: Option<String>,
    /// JSON Schema of the arguments; `None` for a function without arguments.
    pub parameters: Option<Value>,
}

/// A named group of tools.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolNamespace {
    /// Name, the part of a recipient before the dot.
    pub name: String,
    /// What the group is for.
    pub description: Option<String>,
    /// Its tools. A namespace without tools is itself callable, as `python` is.
    pub tools: Vec<FunctionTool>,
}

/// A format that the final message must have, rendered under `# Response Formats`.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseFormat {
    /// Name of the format.
    pub name: String,
    /// What it is for; each line becomes a comment.
    pub description: Option<String>,
    /// JSON Schema, rendered as compact JSON.
    pub schema: Value,
}
