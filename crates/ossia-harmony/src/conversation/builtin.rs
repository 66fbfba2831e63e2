//! The built-in tools as gpt-oss was trained with them: the words are the format.

use serde_json::json;

use super::{FunctionTool, ToolNamespace};

const BROWSER: &str = "Tool for browsing.
The `cursor` appears in brackets before each browsing display: `[{cursor}]`.
Cite information from the tool using the following format:
`【{cursor}†L{line_start}(-L{line_end})?】`, for example: `【6†L9-L11】` or `【8†L3】`.
Do not quote more than 10 words directly from the tool output.
sources=web (default: web)";

const BROWSER_SEARCH: &str = "Searches for information related to `query` and displays `topn` results.";

const BROWSER_OPEN: &str = "Opens the link `id` from the page indicated by `cursor` starting at line number `loc`, \
showing `num_lines` lines.
Valid link ids are displayed with the formatting: `【{id}†.*】`.
If `cursor` is not provided, the most recent page is implied.
If `id` is a string, it is treated as a fully qualified URL associated with `source`.
If `loc` is not provided, the viewport will be positioned at the beginning of the document or centered on the most \
relevant passage, if available.
Use this function without `id` to scroll to a new location of an opened page.";

const BROWSER_FIND: &str =
    "Finds exact matches of `pattern` in the current page, or the page given by `cursor`.";

const PYTHON: &str = "Use this tool to execute Python code in your chain of thought. The code will not be shown to \
the user. This tool should be used for internal reasoning, but not for code that is intended to be visible to the \
user (e.g. when creating plots, tables, or files).

When you send a message containing Python code to python, it will be executed in a stateful Jupyter notebook \
environment. python will respond with the output of the execution or time out after 120.0 seconds. The drive at \
'/mnt/data' can be used to save and persist user files. Internet access for this session is UNKNOWN. Depends on the \
cluster.";

fn tool(name: &str, description: &str, parameters: serde_json::Value) -> FunctionTool {
    FunctionTool {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        parameters: Some(parameters),
    }
}

/// `browser.search`, `browser.open`, `browser.find`.
pub(super) fn browser() -> ToolNamespace {
    let minus_one = || json!({"type": "number", "default": -1});
    let search = json!({
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "topn": {"type": "number", "default": 10},
            "source": {"type": "string"},
        },
        "required": ["query"],
    });
    let open = json!({
        "type": "object",
        "properties": {
            "id": {"type": ["number", "string"], "default": -1},
            "cursor": minus_one(),
            "loc": minus_one(),
            "num_lines": minus_one(),
            "view_source": {"type": "boolean", "default": false},
            "source": {"type": "string"},
        },
    });
    let find = json!({
        "type": "object",
        "properties": {"pattern": {"type": "string"}, "cursor": minus_one()},
        "required": ["pattern"],
    });
    ToolNamespace {
        name: "browser".to_owned(),
        description: Some(BROWSER.to_owned()),
        tools: vec![
            tool("search", BROWSER_SEARCH, search),
            tool("open", BROWSER_OPEN, open),
            tool("find", BROWSER_FIND, find),
        ],
    }
}

/// `python`, which is called without a function name.
pub(super) fn python() -> ToolNamespace {
    ToolNamespace { name: "python".to_owned(), description: Some(PYTHON.to_owned()), tools: Vec::new() }
}
