//! Tool declarations: namespaces of TypeScript-like types, for the system and the developer message.

use crate::{FunctionTool, ToolNamespace};

use super::typescript;

/// A namespace to be declared.
pub(super) struct Namespace<'a> {
    pub(super) name: &'a str,
    pub(super) description: Option<&'a str>,
    pub(super) tools: &'a [FunctionTool],
}

impl<'a> From<&'a ToolNamespace> for Namespace<'a> {
    fn from(namespace: &'a ToolNamespace) -> Self {
        Self { name: &namespace.name, description: namespace.description.as_deref(), tools: &namespace.tools }
    }
}

/// `# Tools` with all `namespaces`.
pub(super) fn section<'a>(namespaces: impl Iterator<Item = Namespace<'a>>) -> String {
    let mut out = "# Tools".to_owned();
    for namespace in namespaces {
        out.push_str("\n\n");
        declare_namespace(&mut out, &namespace);
    }
    out
}

/// A namespace without tools is callable itself; its description is then text, not a comment.
fn declare_namespace(out: &mut String, namespace: &Namespace<'_>) {
    out.push_str("## ");
    out.push_str(namespace.name);
    out.push('\n');
    let comment = if namespace.tools.is_empty() { "" } else { "// " };
    push_lines(out, comment, namespace.description);
    if namespace.tools.is_empty() {
        return;
    }
    out.push_str("\nnamespace ");
    out.push_str(namespace.name);
    out.push_str(" {\n");
    for tool in namespace.tools {
        declare_tool(out, tool);
    }
    out.push_str("\n} // namespace ");
    out.push_str(namespace.name);
}

fn declare_tool(out: &mut String, tool: &FunctionTool) {
    push_lines(out, "// ", tool.description.as_deref());
    out.push_str("\ntype ");
    out.push_str(&tool.name);
    match &tool.parameters {
        Some(schema) => {
            out.push_str(" = (_: ");
            typescript::write_type(out, schema, 0);
            out.push_str(") => any;\n");
        }
        None => out.push_str(" = () => any;\n"),
    }
}

/// Each line of `text` on a new line, with `prefix` before it.
fn push_lines(out: &mut String, prefix: &str, text: Option<&str>) {
    for line in text.unwrap_or_default().lines() {
        out.push('\n');
        out.push_str(prefix);
        out.push_str(line);
    }
}
