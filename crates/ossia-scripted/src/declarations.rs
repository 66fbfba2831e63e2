//! Tool declarations of the developer message, and arguments of their shape.
//!
//! The declarations are the TypeScript-like types that harmony's renderer writes; this reads back what it needs of
//! them: names, required properties, and one value for each type.

use serde_json::{Map, Value};

/// A declared function with arguments that fit it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Declaration {
    pub(crate) name: String,
    pub(crate) arguments: Value,
}

/// Deepest nesting that is followed; below it everything is `null`.
const MAX_DEPTH: usize = 64;

/// The functions declared in the namespace `functions` of a developer message, in order.
pub(crate) fn declarations(developer: &str) -> Vec<Declaration> {
    let Some(start) = developer.find("\nnamespace functions {\n") else { return Vec::new() };
    let body = developer[start..].split("\n} // namespace functions").next().unwrap_or_default();
    let mut found = Vec::new();
    let mut rest = body;
    while let Some(at) = rest.find("\ntype ") {
        rest = &rest[at + "\ntype ".len()..];
        let Some((name, declared)) = rest.split_once(" = (") else { break };
        if name.contains(char::is_whitespace) {
            continue;
        }
        let mut parser = Parser { rest: declared.strip_prefix("_: ").unwrap_or("{}"), depth: 0 };
        found.push(Declaration { name: name.to_owned(), arguments: parser.arguments() });
    }
    found
}

/// Reads types and makes values of them. Whatever it does not know is `null`.
struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    /// Arguments are always an object.
    fn arguments(&mut self) -> Value {
        match self.union() {
            object @ Value::Object(_) => object,
            _ => Value::Object(Map::new()),
        }
    }

    /// Blanks and comments.
    fn skip(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            match self.rest.strip_prefix("//") {
                Some(comment) => self.rest = comment.split_once('\n').map_or("", |(_, rest)| rest),
                None => return,
            }
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// `A | B | C`: the value is the first one's. A leading bar is allowed.
    fn union(&mut self) -> Value {
        self.depth += 1;
        self.eat("|");
        let value = self.postfix();
        while self.eat("|") {
            self.postfix();
        }
        self.depth -= 1;
        value
    }

    /// `T[]` is a list of one `T`.
    fn postfix(&mut self) -> Value {
        let mut value = self.primary();
        while self.rest.starts_with("[]") {
            self.rest = &self.rest[2..];
            value = Value::Array(vec![value]);
        }
        value
    }

    fn primary(&mut self) -> Value {
        self.skip();
        if self.depth > MAX_DEPTH {
            self.rest = "";
        }
        if self.eat("{") {
            return self.object();
        }
        if let Some(rest) = self.rest.strip_prefix('"') {
            let (text, rest) = rest.split_once('"').unwrap_or((rest, ""));
            self.rest = rest;
            return Value::from(text);
        }
        match self.word() {
            "string" => Value::from("text"),
            "number" => Value::from(1),
            "boolean" => Value::from(true),
            "Array" => {
                self.eat("<any>");
                Value::Array(Vec::new())
            }
            _ => Value::Null,
        }
    }

    /// The next name, empty if there is none.
    fn word(&mut self) -> &str {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// `name: type, name?: type, }`: optional properties are left out.
    fn object(&mut self) -> Value {
        let mut object = Map::new();
        while !self.eat("}") {
            let Some((name, rest)) = self.rest.split_once(':') else {
                self.rest = "";
                break;
            };
            self.rest = rest;
            let before = self.rest.len();
            let value = self.union();
            if !name.ends_with('?') {
                object.insert(name.to_owned(), value);
            }
            if !self.eat(",") && self.rest.len() == before {
                self.rest = ""; // no progress: not a declaration that the renderer writes
                break;
            }
        }
        Value::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn developer(types: &str) -> String {
        format!("# Tools\n\n## functions\n\nnamespace functions {{\n{types}\n}} // namespace functions")
    }

    #[test]
    fn arguments_have_the_declared_shape() {
        let cases = [
            ("\ntype f = () => any;\n", json!({})),
            ("\ntype f = (_: {\ncity: string,\nn?: number,\n}) => any;\n", json!({"city": "text"})),
            (
                "\n// Says: hi\ntype f = (_: {\n// a: b\nunit: \"c\" | \"f\", // default: c\nok: boolean,\n}) => any;\n",
                json!({"unit": "c", "ok": true}),
            ),
            (
                "\ntype f = (_: {\nat: {\n    x: number,\n    tags: string[],\n    },\nany: any,\nl: Array<any>,\n}) => any;\n",
                json!({"at": {"x": 1, "tags": ["text"]}, "any": null, "l": []}),
            ),
            ("\ntype f = (_: {\nv:\n | string\n | number // or so\n,\n}) => any;\n", json!({"v": "text"})),
            ("\ntype f = (_: any) => any;\n", json!({})),
            ("\ntype f = (_: {\na", json!({})),
        ];
        for (types, expected) in cases {
            let found = declarations(&developer(types));
            assert_eq!(found.len(), 1, "{types}");
            let keys_ok =
                expected.as_object().is_none_or(|map| map.is_empty()) || found[0].arguments == expected;
            assert!(keys_ok, "{types}: {}", found[0].arguments);
        }
    }

    #[test]
    fn text_without_declarations_has_none() {
        assert_eq!(declarations("# Instructions\n\nBe brief."), []);
        assert_eq!(declarations(""), []);
        let deep = developer(&format!("\ntype f = (_: {}", "{a: ".repeat(1000)));
        assert_eq!(declarations(&deep).len(), 1);
    }

    #[test]
    fn every_function_is_found() {
        let types =
            "\n// type x\ntype first = (_: {\nq: string,\n}) => any;\n\ntype second-one = () => any;\n";
        let names: Vec<String> = declarations(&developer(types)).into_iter().map(|d| d.name).collect();
        assert_eq!(names, ["first", "second-one"]);
    }
}
