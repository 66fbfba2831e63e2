//! The text of the developer message.

use crate::{DeveloperContent, ResponseFormat};

use super::tools::{self, Namespace};

/// Instructions, then tools, then the response format.
pub(super) fn text(developer: &DeveloperContent) -> String {
    let mut sections = Vec::new();
    if let Some(instructions) = &developer.instructions {
        sections.push(format!("# Instructions\n\n{instructions}"));
    }
    if developer.has_tools() {
        let functions = Namespace { name: "functions", description: None, tools: &developer.tools };
        let others = developer.namespaces.iter().map(Namespace::from);
        let mut namespaces: Vec<_> = std::iter::once(functions).chain(others).collect();
        namespaces.retain(|namespace| !namespace.tools.is_empty());
        namespaces.sort_by_key(|namespace| namespace.name);
        sections.push(tools::section(namespaces.into_iter()));
    }
    if let Some(format) = &developer.response_format {
        sections.push(response_format(format));
    }
    sections.join("\n\n")
}

fn response_format(format: &ResponseFormat) -> String {
    let mut text = format!("# Response Formats\n\n## {}\n\n", format.name);
    for line in format.description.as_deref().unwrap_or_default().lines() {
        text.push_str(&format!("// {line}\n"));
    }
    text.push_str(&format.schema.to_string());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn response_format_stands_last() {
        let developer = DeveloperContent {
            instructions: Some("Be brief.".to_owned()),
            response_format: Some(ResponseFormat {
                name: "shopping_list".to_owned(),
                description: Some("What to buy.\nNo prices.".to_owned()),
                schema: json!({"type": "object", "properties": {"items": {"type": "array"}}}),
            }),
            ..DeveloperContent::default()
        };
        let expected = "# Instructions\n\nBe brief.\n\n# Response Formats\n\n## shopping_list\n\n// What to buy.\n\
                        // No prices.\n{\"type\":\"object\",\"properties\":{\"items\":{\"type\":\"array\"}}}";
        assert_eq!(text(&developer), expected);
    }
}
