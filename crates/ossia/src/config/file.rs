//! The configuration file: TOML, one table per heading of `serve --help`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use toml_edit::{Document, Item, Key, Value};

use super::nearest;

/// The file, read.
#[derive(Debug)]
pub(super) struct ConfigFile {
    path: PathBuf,
    values: Vec<FileValue>,
}

/// A value of the file, as the text that a flag would have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileValue {
    section: String,
    key: String,
    pub(super) values: Vec<String>,
    /// Counted from 1.
    pub(super) line: usize,
}

impl ConfigFile {
    /// The file that is named, else the user's, else the machine's; `None` if there is none.
    pub(super) fn find(named: Option<&PathBuf>) -> Result<Option<Self>> {
        match named {
            Some(path) if path.as_os_str() == "none" => Ok(None),
            Some(path) => Self::read(path).map(Some),
            None => {
                places().into_iter().find(|path| path.is_file()).map(|path| Self::read(&path)).transpose()
            }
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
        let values =
            values(&text).map_err(|(line, message)| anyhow!("{}:{line}: {message}", path.display()))?;
        Ok(Self { path: path.to_owned(), values })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The value of this table and key.
    pub(super) fn get(&self, [section, key]: &[String; 2]) -> Option<&FileValue> {
        self.values.iter().find(|value| value.section == *section && value.key == *key)
    }

    /// Refuses keys that are not among `keys`, each `section.key`.
    pub(super) fn check_names(&self, keys: &[String]) -> Result<()> {
        for FileValue { section, key, line, .. } in &self.values {
            let name = format!("{section}.{key}");
            if keys.contains(&name) {
                continue;
            }
            let elsewhere =
                keys.iter().find(|known| known.split_once('.').is_some_and(|(_, known)| known == key));
            let meant =
                elsewhere.map(String::as_str).or_else(|| nearest(&name, keys.iter().map(String::as_str)));
            let meant = meant.unwrap_or_default();
            bail!("{}:{line}: there is no setting '{name}'; did you mean '{meant}'?", self.path.display());
        }
        Ok(())
    }
}

/// Where a file is looked for that nobody named.
fn places() -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let user = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
    user.into_iter().chain([PathBuf::from("/etc")]).map(|dir| dir.join("ossia/ossia.toml")).collect()
}

/// All values of a file; an error comes with its line.
fn values(text: &str) -> Result<Vec<FileValue>, (usize, String)> {
    let line = |at: usize| 1 + text[..at].matches('\n').count();
    let document = Document::parse(text)
        .map_err(|error| (error.span().map_or(1, |span| line(span.start)), error.message().to_owned()))?;
    let line_of = |key: &Key| key.span().map_or(1, |span| line(span.start));
    let mut values = Vec::new();
    for (section, item) in document.iter() {
        let Some(table) = item.as_table_like() else {
            let at = document.key(section).map_or(1, line_of);
            return Err((
                at,
                format!("'{section}' stands in no table; expected a table such as [http] before it"),
            ));
        };
        for (key, item) in table.iter() {
            let at = table.key(key).map_or(1, line_of);
            let texts = texts(item).ok_or_else(|| {
                (at, format!("'{section}.{key}' is a {}; expected a text, a number, true, false or a list of these", item.type_name()))
            })?;
            values.push(FileValue {
                section: section.to_owned(),
                key: key.to_owned(),
                values: texts,
                line: at,
            });
        }
    }
    Ok(values)
}

fn texts(item: &Item) -> Option<Vec<String>> {
    match item.as_value()? {
        Value::Array(items) => items.iter().map(text).collect(),
        value => Some(vec![text(value)?]),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.value().clone()),
        Value::Integer(number) => Some(number.value().to_string()),
        Value::Float(number) => Some(number.value().to_string()),
        Value::Boolean(value) => Some(value.value().to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_line() {
        let text = "# a comment\n[http]\nport = 1\nserved_model_name = [\"a\", \"b\"]\n\n[engine]\nno_prefix_caching = true\n";
        let found = values(text).expect("a configuration");
        let shown: Vec<_> =
            found.iter().map(|v| (v.section.as_str(), v.key.as_str(), v.values.join(","), v.line)).collect();
        let expected = [
            ("http", "port", "1".to_owned(), 3),
            ("http", "served_model_name", "a,b".to_owned(), 4),
            ("engine", "no_prefix_caching", "true".to_owned(), 7),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_its_line() {
        for (text, line, word) in [
            ("[http]\nport = \n", 2, ""),
            ("\nport = 1", 2, "stands in no table"),
            ("[http]\nhost = 1979-05-27", 2, "datetime"),
            ("[http]\n[http.tls]\na = 1", 2, "table"),
        ] {
            let (at, message) = values(text).expect_err(text);
            assert_eq!(at, line, "{text}: {message}");
            assert!(message.contains(word), "{text}: {message}");
        }
    }
}
