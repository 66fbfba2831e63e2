//! A page of the documentation that names tests must not outlive them.

use anyhow::{Context, Result};

use crate::command;

/// A table whose last column names tests in backticks.
const TABLE: &str = "docs/complaints.md";
const CLIENT_TESTS: &str = "tests/clients";

/// Tests that the table names and nobody has written, given the Rust files of the workspace.
pub(crate) fn offences(rust_files: &[String]) -> Result<Vec<String>> {
    let read = |path: &str| {
        std::fs::read_to_string(command::root().join(path)).with_context(|| format!("cannot read {path}"))
    };
    let mut sources: Vec<String> = rust_files.iter().map(|path| read(path)).collect::<Result<_>>()?;
    for entry in std::fs::read_dir(command::root().join(CLIENT_TESTS))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "py") {
            sources.push(std::fs::read_to_string(&path)?);
        }
    }
    let missing = missing(&read(TABLE)?, &sources);
    Ok(missing.into_iter().map(|name| format!("{TABLE}: there is no test `{name}`")).collect())
}

fn missing(table: &str, sources: &[String]) -> Vec<String> {
    let cells = table.lines().filter_map(|line| line.strip_suffix('|')?.rsplit('|').next());
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let is_written = |name: &str| {
        let definitions = [format!("fn {name}("), format!("def {name}(")];
        sources.iter().any(|source| definitions.iter().any(|definition| source.contains(definition)))
    };
    names.filter(|name| !is_written(name)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_column_names_tests() {
        let table = "| a | b |\n|---|---|\n| uses `x` | `one`, `two` |\ntext with `three`\n| `y` | |\n";
        let sources = ["fn one() {}".to_owned(), "def two(demo):\n    pass\n".to_owned()];
        assert_eq!(missing(table, &sources), Vec::<String>::new());
        assert_eq!(missing(table, &sources[..1]), ["two"]);
    }
}
