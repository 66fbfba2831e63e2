//! JSON Schema as a TypeScript-like type, the way gpt-oss saw it in training.
//!
//! What the format cannot say (`anyOf`, `$ref`, `allOf`, numeric bounds) becomes `any` or is left out, as in the
//! reference renderer; a schema is shown to the model here, it is enforced elsewhere.

use serde_json::Value;

/// Appends the type of values that match `schema`; further lines of it are indented by `indent` blanks.
pub(super) fn write_type(out: &mut String, schema: &Value, indent: usize) {
    if let Some(variants) = schema.get("oneOf").and_then(Value::as_array) {
        for variant in variants {
            out.push('\n');
            write_variant(out, variant, indent);
            let default = default_of(variant, EnumDefault::Json);
            push_trailing_comment(out, [str_of(variant, "description").map(str::to_owned), default]);
        }
        return;
    }
    match schema.get("type") {
        Some(Value::Array(types)) if types.iter().any(Value::is_string) => write_union(out, types),
        Some(Value::String(name)) => write_named_type(out, schema, name, indent),
        _ => out.push_str("any"),
    }
}

fn write_union(out: &mut String, types: &[Value]) {
    let names: Vec<&str> = types
        .iter()
        .filter_map(Value::as_str)
        .map(|name| if name == "integer" { "number" } else { name })
        .collect();
    out.push_str(&names.join(" | "));
}

fn write_named_type(out: &mut String, schema: &Value, name: &str, indent: usize) {
    match name {
        "object" => write_object(out, schema, indent),
        "string" => write_string(out, schema),
        "number" | "integer" => out.push_str("number"),
        "boolean" => out.push_str("boolean"),
        "array" => match schema.get("items") {
            Some(items) => {
                write_type(out, items, indent);
                out.push_str("[]");
            }
            None => out.push_str("Array<any>"),
        },
        _ => out.push_str("any"),
    }
}

fn write_string(out: &mut String, schema: &Value) {
    let values = schema.get("enum").and_then(Value::as_array);
    let quoted: Vec<String> =
        values.into_iter().flatten().filter_map(Value::as_str).map(|value| format!("\"{value}\"")).collect();
    out.push_str(if quoted.is_empty() { "string" } else { "" });
    out.push_str(&quoted.join(" | "));
}

fn write_object(out: &mut String, schema: &Value, indent: usize) {
    if let Some(description) = str_of(schema, "description") {
        push_comment(out, indent, description);
    }
    out.push_str("{\n");
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let required: std::collections::HashSet<&str> = required.into_iter().collect();
    for (key, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let mark = if required.contains(key.as_str()) { "" } else { "?" };
        write_property(out, &format!("{key}{mark}:"), property, indent);
    }
    push_indent(out, indent);
    out.push('}');
}

/// One property; `name` is its name with `:` or `?:`.
fn write_property(out: &mut String, name: &str, property: &Value, indent: usize) {
    if let Some(title) = str_of(property, "title") {
        push_comment(out, indent, title);
        push_indent(out, indent);
        out.push_str("//\n");
    }
    let has_one_of = property.get("oneOf").is_some();
    if let Some(description) = str_of(property, "description").filter(|_| !has_one_of) {
        push_comment(out, indent, description);
    }
    write_examples(out, property, indent);
    if let Some(variants) = property.get("oneOf").and_then(Value::as_array) {
        return write_one_of_property(out, name, property, variants, indent);
    }
    push_indent(out, indent);
    out.push_str(name);
    out.push(' ');
    write_nullable(out, property, indent + 4);
    out.push(',');
    let default = if has_one_of { None } else { default_of(property, EnumDefault::Bare) };
    push_trailing_comment(out, [default, None]);
    out.push('\n');
}

fn write_examples(out: &mut String, property: &Value, indent: usize) {
    let Some(examples) = property.get("examples").and_then(Value::as_array).filter(|list| !list.is_empty())
    else {
        return;
    };
    push_comment(out, indent, "Examples:");
    for example in examples.iter().filter_map(Value::as_str) {
        push_comment(out, indent, &format!("- \"{example}\""));
    }
}

/// A property whose type is a list of variants, one a line.
///
/// Its description stands above it, unless the first variant has the same; then, and only then, descriptions of
/// later variants that are equal to it are left out beside them.
fn write_one_of_property(out: &mut String, name: &str, property: &Value, variants: &[Value], indent: usize) {
    let description = str_of(property, "description");
    let first = variants.first().and_then(|variant| str_of(variant, "description"));
    let above = description.filter(|_| description != first);
    if let Some(above) = above {
        push_comment(out, indent, above);
    }
    if let Some(default) = default_of(property, EnumDefault::Bare) {
        push_comment(out, indent, &default);
    }
    push_indent(out, indent);
    out.push_str(name);
    out.push('\n');
    for (idx, variant) in variants.iter().enumerate() {
        write_variant(out, variant, indent);
        let is_shown = |text: &&str| !(idx == 0 && above.is_some()) && Some(*text) != description;
        let beside = str_of(variant, "description").filter(is_shown).map(str::to_owned);
        push_trailing_comment(out, [beside, default_of(variant, EnumDefault::Bare)]);
        out.push('\n');
    }
    push_indent(out, indent);
    out.push_str(",\n");
}

fn write_variant(out: &mut String, variant: &Value, indent: usize) {
    push_indent(out, indent);
    out.push_str(" | ");
    write_nullable(out, variant, indent + 3);
}

fn write_nullable(out: &mut String, schema: &Value, indent: usize) {
    let start = out.len();
    write_type(out, schema, indent);
    let nullable = schema.get("nullable").and_then(Value::as_bool).unwrap_or(false);
    if nullable && !out[start..].contains("null") {
        out.push_str(" | null");
    }
}

/// How the default of an enum of strings is written: the format has both ways.
#[derive(Clone, Copy, PartialEq)]
enum EnumDefault {
    Bare,
    Json,
}

fn default_of(schema: &Value, style: EnumDefault) -> Option<String> {
    let is_enum = schema.get("enum").and_then(Value::as_array).is_some_and(|values| !values.is_empty());
    Some(match schema.get("default")? {
        Value::String(text) if !is_enum => format!("default: \"{text}\""),
        Value::String(text) if style == EnumDefault::Bare => format!("default: {text}"),
        other => format!("default: {other}"),
    })
}

fn str_of<'a>(schema: &'a Value, key: &str) -> Option<&'a str> {
    schema.get(key).and_then(Value::as_str)
}

fn push_indent(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn push_comment(out: &mut String, indent: usize, text: &str) {
    push_indent(out, indent);
    out.push_str("// ");
    out.push_str(text);
    out.push('\n');
}

fn push_trailing_comment(out: &mut String, parts: [Option<String>; 2]) {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if !parts.is_empty() {
        out.push_str(" // ");
        out.push_str(&parts.join(" "));
    }
}
