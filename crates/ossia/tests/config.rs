//! `ossia config`: the layers, what is in force, and what a mistake is told.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

fn ossia(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ossia"));
    command.env_clear().envs(env.iter().copied()).arg("config").args(args).output().unwrap()
}

/// Each setting's value and source, by `section.key`.
fn settings(args: &[&str], env: &[(&str, &str)]) -> BTreeMap<String, (String, String)> {
    let output = ossia(args, env);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut settings, mut section) = (BTreeMap::new(), String::new());
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some((key, rest)) = line.split_once(" = ") {
            let (value, source) = rest.rsplit_once(" # ").unwrap();
            settings.insert(format!("{section}.{key}"), (value.trim().to_owned(), source.to_owned()));
        } else if let Some(key) = line.strip_prefix("# ").and_then(|line| line.strip_suffix(" is not set")) {
            settings.insert(format!("{section}.{key}"), (String::new(), "not set".to_owned()));
        }
    }
    settings
}

fn error(args: &[&str], env: &[(&str, &str)]) -> String {
    let output = ossia(args, env);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

fn write(dir: &Path, text: &str) -> String {
    let path = dir.join("test.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn flags_go_before_variables_and_variables_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(
        dir.path(),
        "[http]\nport = 1\nhost = \"::1\"\nserved_model_name = [\"a\", \"b\"]\n[engine]\nmax_num_seqs = 7\nno_prefix_caching = true\n",
    );
    let env = [("OSSIA_PORT", "2"), ("OSSIA_HOST", "127.0.0.2"), ("OSSIA_ACCEPT_ANY_MODEL", "1")];
    let found = settings(&["--config", &file, "--port", "3", "--no-prefix-caching=false"], &env);
    let expected = [
        ("http.port", "3", "--port".to_owned()),
        ("http.host", "\"127.0.0.2\"", "OSSIA_HOST".to_owned()),
        ("http.served_model_name", "[\"a\", \"b\"]", format!("{file}:4")),
        ("http.accept_any_model", "true", "OSSIA_ACCEPT_ANY_MODEL".to_owned()),
        ("engine.max_num_seqs", "7", format!("{file}:6")),
        ("engine.no_prefix_caching", "false", "--no-prefix-caching".to_owned()),
        ("engine.block_size", "16", "built in".to_owned()),
        ("engine.max_model_len", "", "not set".to_owned()),
    ];
    for (key, value, source) in expected {
        assert_eq!(found[key], (value.to_owned(), source), "{key}");
    }
}

#[test]
fn the_file_is_found_where_programs_keep_theirs() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("ossia")).unwrap();
    let file = dir.path().join("ossia/ossia.toml");
    std::fs::write(&file, "[http]\nport = 4\n").unwrap();
    let env = [("XDG_CONFIG_HOME", dir.path().to_str().unwrap())];
    assert_eq!(settings(&[], &env)["http.port"], ("4".to_owned(), format!("{}:2", file.display())));
    assert_eq!(settings(&["--config", "none"], &env)["http.port"].1, "built in");
}

#[test]
fn mistakes_are_named_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        ("[http]\n\nprot = 1\n", ":3: there is no setting 'http.prot'; did you mean 'http.port'?"),
        (
            "[http]\nmax_num_seqs = 1\n",
            ":2: there is no setting 'http.max_num_seqs'; did you mean 'engine.max_num_seqs'?",
        ),
        ("[htpp]\nport = 1\n", ":2: there is no setting 'htpp.port'; did you mean 'http.port'?"),
        ("[http]\nport = 70000\n", ":2: invalid value '70000' for 'http.port'"),
        (
            "[engine]\nkv_cache_memory = \"2 pints\"\n",
            ":2: invalid value '2 pints' for 'engine.kv_cache_memory'",
        ),
        ("[http]\nport = \n", ":2: "),
    ];
    for (text, expected) in cases {
        let file = write(dir.path(), text);
        let message = error(&["--config", &file], &[]);
        assert!(message.contains(&format!("{file}{expected}")), "{text}: {message}");
    }
    assert!(error(&["--config", "/nowhere.toml"], &[]).contains("/nowhere.toml"));
    // A file is right or wrong by itself, whatever goes before it.
    let file = write(dir.path(), "[http]\nport = [1, 2]\n");
    assert!(error(&["--config", &file, "--port", "1"], &[]).contains(&format!("{file}:2: ")));
}

#[test]
fn a_variable_that_nobody_reads_is_warned_of() {
    let output = ossia(&[], &[("OSSIA_PROT", "1")]);
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && log.contains("no setting is called OSSIA_PROT; did you mean OSSIA_PORT?"),
        "{log}"
    );
}

#[test]
fn a_password_is_not_printed() {
    let found = settings(&[], &[("OSSIA_STORE", "postgres://me:hunter2@db/ossia")]);
    assert_eq!(found["state.store"], ("\"postgres://me:***@db/ossia\"".to_owned(), "OSSIA_STORE".to_owned()));
}

/// `config/ossia.toml` has every setting, and says truly what is built in.
#[test]
fn the_shipped_file_is_complete_and_true() {
    let shipped = include_str!("../../../config/ossia.toml");
    let is_setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && *line != "#";
    let text = shipped
        .lines()
        .map(|line| if is_setting(&line) { &line[1..] } else { line })
        .collect::<Vec<_>>()
        .join("\n");
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), &text);
    let (of_file, built_in) = (settings(&["--config", &file], &[]), settings(&["--config", "none"], &[]));
    assert_eq!(of_file.keys().collect::<Vec<_>>(), built_in.keys().collect::<Vec<_>>());
    for (key, (value, source)) in &built_in {
        let (found, place) = &of_file[key];
        assert!(place.starts_with(&file), "{key} is not in config/ossia.toml");
        assert!(
            source == "not set" || value == found,
            "{key} is {found} in config/ossia.toml, built in is {value}"
        );
    }
    // As it is shipped, with everything commented out, it changes nothing.
    let file = write(dir.path(), shipped);
    assert_eq!(settings(&["--config", &file], &[]), built_in);
}
