//! One setting as it is in force: its value, and the layer that it came from.

use std::fmt;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};
use ossia_server::without_password;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nowhere: the setting has no value.
    Unset,
    /// The program.
    BuiltIn,
    /// A line of the configuration file.
    File { path: PathBuf, line: usize },
    /// A variable of the environment.
    Variable(String),
    /// The command line.
    Flag(String),
}

/// A setting in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) section: String,
    pub(crate) key: String,
    /// As text; passwords in URLs are left out.
    pub(crate) values: Vec<String>,
    pub(crate) is_list: bool,
    pub(crate) source: Source,
}

impl Setting {
    /// The setting of `arg`; `place` is where the file has it, if it does.
    pub(super) fn new(
        arg: &Arg,
        [section, key]: [String; 2],
        matches: &ArgMatches,
        place: Option<Source>,
    ) -> Self {
        let id = arg.get_id().as_str();
        let source = match matches.value_source(id) {
            None => Source::Unset,
            Some(ValueSource::CommandLine) => Source::Flag(flag(arg)),
            Some(ValueSource::EnvVariable) => {
                Source::Variable(arg.get_env().unwrap_or_default().to_string_lossy().into_owned())
            }
            Some(_) => place.unwrap_or(Source::BuiltIn),
        };
        let values = match matches.try_get_one::<bool>(id) {
            // A switch has several words for true and false.
            Ok(Some(switch)) => vec![switch.to_string()],
            _ => {
                let raw = matches.get_raw(id).into_iter().flatten();
                raw.map(|value| without_password(&value.to_string_lossy())).collect()
            }
        };
        let is_list = matches!(arg.get_action(), ArgAction::Append);
        Self { section, key, values, is_list, source }
    }

    /// The value as TOML; `None` if there is none.
    fn toml(&self) -> Option<String> {
        let scalar = |text: &String| match text.parse::<toml_edit::Value>() {
            Ok(toml_edit::Value::Boolean(_) | toml_edit::Value::Integer(_) | toml_edit::Value::Float(_)) => {
                text.clone()
            }
            _ => toml_edit::Value::from(text).to_string(),
        };
        if self.is_list && !self.values.is_empty() {
            let items: Vec<String> = self.values.iter().map(scalar).collect();
            return Some(format!("[{}]", items.join(", ")));
        }
        self.values.first().map(scalar)
    }
}

fn flag(arg: &Arg) -> String {
    arg.get_long().map_or_else(|| arg.to_string(), |long| format!("--{long}"))
}

impl fmt::Display for Setting {
    /// A line of a configuration file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.toml() {
            Some(value) => write!(f, "{:<52} # {}", format!("{} = {value}", self.key), self.source),
            None => write!(f, "# {} is not set", self.key),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => f.write_str("not set"),
            Self::BuiltIn => f.write_str("built in"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// The name among `names` that was most likely meant.
pub(crate) fn nearest<'a>(found: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &&str| strsim::damerau_levenshtein(&found.to_lowercase(), &name.to_lowercase());
    names.into_iter().min_by_key(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_stay_out() {
        for (text, expected) in [
            ("postgres://me:secret@host/db", "postgres://me:***@host/db"),
            ("postgres://me:se@cr:et@host:5432/db", "postgres://me:***@host:5432/db"),
            ("postgres://me@host:5432/db", "postgres://me@host:5432/db"),
            ("postgres:///db?x=a:b@c", "postgres:///db?x=a:b@c"),
            ("sqlite:a:b@c", "sqlite:a:b@c"),
        ] {
            assert_eq!(without_password(text), expected);
        }
    }

    #[test]
    fn the_nearest_name_is_the_one_meant() {
        let names = ["http.port", "http.host", "engine.max_num_seqs"];
        for (found, expected) in [
            ("http.prot", "http.port"),
            ("engine.max_seqs", "engine.max_num_seqs"),
            ("HTTP.HOST", "http.host"),
        ] {
            assert_eq!(nearest(found, names), Some(expected), "{found}");
        }
    }
}
