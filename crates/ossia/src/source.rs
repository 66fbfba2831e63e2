//! What the MODEL argument names: the bundled demo, a directory, a scripted runner or a repository of the hub.

use std::path::PathBuf;
use std::str::FromStr;

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModelSource {
    /// The demo checkpoint inside the program.
    Demo,
    /// A checkpoint directory.
    Directory(PathBuf),
    /// `scripted:FILE`, rules instead of weights; `scripted:` alone has no rules.
    Scripted(Option<PathBuf>),
    /// `owner/name` on the Hugging Face hub.
    Hub(String),
}

impl FromStr for ModelSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "demo" {
            return Ok(Self::Demo);
        }
        if let Some(file) = text.strip_prefix("scripted:") {
            return Ok(Self::Scripted((!file.is_empty()).then(|| PathBuf::from(file))));
        }
        let path = PathBuf::from(text);
        if path.is_dir() {
            return Ok(Self::Directory(path));
        }
        if is_repo_id(text) {
            return Ok(Self::Hub(text.to_owned()));
        }
        Err(format!(
            "'{text}' is neither a directory, nor a hub repository (owner/name), nor 'demo', nor scripted:FILE"
        ))
    }
}

impl ModelSource {
    /// The name under which the model is served when no other is given.
    pub(crate) fn default_name(&self) -> String {
        match self {
            Self::Demo => "ossia-demo".to_owned(),
            Self::Scripted(_) => "scripted".to_owned(),
            Self::Hub(repo) => repo.clone(),
            Self::Directory(dir) => {
                let full = dir.canonicalize().unwrap_or_else(|_| dir.clone());
                full.file_name()
                    .map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
            }
        }
    }
}

/// `owner/name` with the characters that the hub allows.
fn is_repo_id(text: &str) -> bool {
    let legal = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    text.split_once('/').is_some_and(|(owner, name)| legal(owner) && legal(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_argument_is_read_as_what_it_names() {
        let dir = std::env::temp_dir();
        let cases = [
            ("demo", Some(ModelSource::Demo)),
            ("scripted:", Some(ModelSource::Scripted(None))),
            ("scripted:rules.json", Some(ModelSource::Scripted(Some("rules.json".into())))),
            ("openai/gpt-oss-20b", Some(ModelSource::Hub("openai/gpt-oss-20b".into()))),
            ("no-such-directory", None),
            ("a/b/c", None),
            ("../x", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<ModelSource>().ok(), expected, "{text}");
        }
        assert_eq!(dir.to_str().and_then(|d| d.parse().ok()), Some(ModelSource::Directory(dir.clone())));
    }
}
