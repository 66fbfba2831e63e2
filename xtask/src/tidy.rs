//! The architecture invariants of ARCHITECTURE.md that no compiler checks: who may depend on whom, and which
//! words may stand in which files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{command, named_tests};

/// Which of our crates each crate may name in its dependencies (tests excepted).
const INTERNAL: &[(&str, &[&str])] = &[
    ("ossia-kernels", &[]),
    ("ossia-model", &["ossia-kernels"]),
    ("ossia-engine", &["ossia-model"]),
    ("ossia-harmony", &[]),
    ("ossia-scripted", &["ossia-engine", "ossia-harmony", "ossia-model"]),
    ("ossia-server", &["ossia-engine", "ossia-harmony"]),
    (
        "ossia",
        &["ossia-kernels", "ossia-engine", "ossia-harmony", "ossia-model", "ossia-scripted", "ossia-server"],
    ),
    ("xtask", &[]),
    ("xtask-assets", &["ossia-harmony", "ossia-model"]),
];

/// Crates from outside that one of ours must not name.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("ossia-engine", &["axum", "serde", "serde_json", "tokenizers", "clap"]),
    ("ossia-model", &["axum", "tokio", "tokenizers", "clap"]),
    ("ossia-kernels", &["axum", "tokio", "tokenizers", "clap", "serde_json"]),
    ("ossia-harmony", &["axum", "tokio", "candle-core", "clap"]),
    ("ossia-server", &["candle-core", "tokenizers", "clap"]),
];

/// Words that may not stand under a path, except in the files listed; the reason is printed.
struct Rule {
    under: &'static str,
    except: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        under: "crates/ossia-engine/src/scheduler",
        except: &[],
        words: &["candle", "Instant", "SystemTime", "async ", "tokio"],
        why: "the scheduler is pure: no candle, no clock, not async",
    },
    Rule {
        under: "crates/ossia-engine/src/block_manager",
        except: &[],
        words: &["candle", "Instant", "SystemTime", "async ", "tokio"],
        why: "the block manager is pure: no candle, no clock, not async",
    },
    Rule {
        under: "crates/ossia-engine/src/sequence",
        except: &[],
        words: &["candle", "Instant", "SystemTime", "async ", "tokio"],
        why: "a sequence is pure: no candle, no clock, not async",
    },
    Rule {
        under: "crates/ossia-engine/src/waiting",
        except: &[],
        words: &["candle", "Instant", "SystemTime", "async ", "tokio"],
        why: "the waiting queue is pure: no candle, no clock, not async",
    },
    Rule {
        under: "crates/ossia-model/src",
        except: &[],
        words: &["SequenceStatus", "GenerationRequest", "request_id", "Scheduler"],
        why: "the model knows a ForwardBatch, no request and no sequence",
    },
    Rule {
        under: "crates",
        except: &["crates/ossia-server/src/wire"],
        words: &["derive(Serialize", ", Serialize"],
        why: "only the wire types derive Serialize",
    },
    Rule {
        under: "crates",
        // A build script is told by its environment.
        except: &["crates/ossia/src", "crates/ossia-kernels/build.rs"],
        words: &["env::var", "env::args"],
        why: "only the binary reads flags and environment",
    },
    Rule {
        under: "crates",
        except: &["crates/ossia-kernels"],
        words: &["unsafe {", "unsafe fn", "unsafe impl", "feature = \"cuda\"", "feature = \"metal\""],
        why: "unsafe and backends live in ossia-kernels",
    },
    Rule {
        under: "crates",
        except: &[
            "crates/ossia/src/hub/client.rs",
            "crates/ossia/src/jwks.rs",
            "crates/ossia/src/listen",
            // It names the client whose bytes are not logged.
            "crates/ossia/src/logging.rs",
            "crates/ossia/src/otlp",
            "crates/ossia/src/outbound.rs",
            "crates/ossia/src/commands/bench/serve/client.rs",
        ],
        words: &[
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "UnixListener",
            "HttpConnector",
            "reqwest",
            "ureq",
        ],
        why: "no socket is opened that the user did not configure",
    },
];

/// Runs all checks; the error lists every offence.
pub(crate) fn run() -> Result<()> {
    let mut offences = dependency_offences(&metadata()?)?;
    for rule in RULES {
        offences.extend(rule.offences()?);
    }
    offences.extend(missing_opening_sentences()?);
    offences.extend(named_tests::offences(&rust_files()?)?);
    ensure!(offences.is_empty(), "tidy found {}:\n{}", offences.len(), offences.join("\n"));
    Ok(())
}

fn metadata() -> Result<Value> {
    let mut command = Command::new("cargo");
    command.args(["metadata", "--format-version", "1", "--no-deps"]).current_dir(command::root());
    let output = command.output().context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")
}

fn dependency_offences(metadata: &Value) -> Result<Vec<String>> {
    let mut offences = Vec::new();
    for package in metadata["packages"].as_array().context("cargo metadata lists no packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = INTERNAL.iter().find(|(of, _)| *of == name) else {
            offences.push(format!("{name}: not in the table of crates in xtask/src/tidy.rs"));
            continue;
        };
        let forbidden = FORBIDDEN.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, names)| names);
        for dependency in normal_dependencies(package) {
            let internal = INTERNAL.iter().any(|(of, _)| *of == dependency);
            if internal && !allowed.contains(&dependency.as_str()) || forbidden.contains(&dependency.as_str())
            {
                offences.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    Ok(offences)
}

fn normal_dependencies(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    all.filter(|dependency| dependency["kind"].is_null())
        .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
        .collect()
}

impl Rule {
    fn offences(&self) -> Result<Vec<String>> {
        let mut offences = Vec::new();
        for path in rust_files()?.iter().filter(|path| path.starts_with(self.under)) {
            if self.except.iter().any(|except| path.starts_with(except)) || is_test(path) {
                continue;
            }
            let text = std::fs::read_to_string(command::root().join(path))?;
            for (number, line) in code_lines(&text) {
                for word in self.words.iter().filter(|word| line.contains(**word)) {
                    offences.push(format!("{path}:{number}: '{word}': {}", self.why));
                }
            }
        }
        Ok(offences)
    }
}

/// Lines that are neither comments nor part of the unit tests at a file's end.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (index + 1, line))
}

fn is_test(path: &str) -> bool {
    ["/tests/", "/benches/", "/examples/"].iter().any(|part| path.contains(part))
        || path.ends_with("tests.rs")
}

fn missing_opening_sentences() -> Result<Vec<String>> {
    let mut offences = Vec::new();
    for path in rust_files()? {
        let text = std::fs::read_to_string(command::root().join(&path))?;
        if !text.starts_with("//!") {
            offences.push(format!("{path}: does not open with a `//!` sentence on what it is for"));
        }
    }
    Ok(offences)
}

/// All Rust files of the workspace, relative to the root, `/` between parts.
fn rust_files() -> Result<Vec<String>> {
    let mut files = Vec::new();
    for dir in ["crates", "xtask"] {
        collect(&command::root().join(dir), &mut files)?;
    }
    let root = command::root();
    let relative = |path: PathBuf| Some(path.strip_prefix(&root).ok()?.to_string_lossy().replace('\\', "/"));
    Ok(files.into_iter().filter_map(relative).collect())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_unit_tests_are_not_code() {
        let text = "use a;\n// unsafe {\nfn b() {}\n#[cfg(test)]\nmod tests { unsafe { } }\n";
        let lines: Vec<_> = code_lines(text).collect();
        assert_eq!(lines, [(1, "use a;"), (3, "fn b() {}")]);
    }

    #[test]
    fn a_forbidden_dependency_is_an_offence_and_a_dev_dependency_is_not() {
        let metadata = serde_json::json!({"packages": [{"name": "ossia-engine", "dependencies": [
            {"name": "axum", "kind": null}, {"name": "ossia-model", "kind": null},
            {"name": "ossia-server", "kind": null}, {"name": "serde_json", "kind": "dev"},
        ]}]});
        let offences = dependency_offences(&metadata).unwrap_or_default();
        assert_eq!(
            offences,
            ["ossia-engine must not depend on axum", "ossia-engine must not depend on ossia-server"]
        );
    }
}
