//! Files that an operator writes: ossia.toml and the file of API keys end in values or in an error with a line.
#![no_main]
#![allow(dead_code)]

#[path = "../../crates/ossia/src/config/file.rs"]
mod file;
#[path = "../../crates/ossia/src/key_file.rs"]
mod key_file;

use libfuzzer_sys::fuzz_target;
use ossia_server::Access;

/// Stands in for the one of the configuration, which measures distances.
fn nearest<'a>(_: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names.min()
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, text)) = data.split_first() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file.toml");
    std::fs::write(&path, text).expect("written");
    if choice % 2 == 0 {
        if let Ok(Some(file)) = file::ConfigFile::find(Some(&path)) {
            let _ = file.check_names(&["http.port".to_owned(), "engine.block_size".to_owned()]);
            file.get(&["http".to_owned(), "port".to_owned()]);
        }
        return;
    }
    if let Ok(keys) = key_file::read(&path) {
        let names: Vec<String> = keys.iter().map(|key| key.name.clone()).collect();
        let _ = Access::default().set_keys(keys);
        if let Some(name) = names.first() {
            let _ = key_file::revoke(&path, name);
        }
    }
});
