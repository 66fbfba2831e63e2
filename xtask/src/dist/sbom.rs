//! The software bill of materials, in CycloneDX 1.6: every crate that is compiled into the program, with its licence and
//! the hash under which it was fetched.
//!
//! It comes from `cargo metadata` and `Cargo.lock`, which know more than a scanner of the binary could; cargo-cyclonedx
//! would be one more tool to compile for the same facts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::command;

/// The platform whose crates are listed.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";
const PROGRAM: &str = "ossia";

/// A crate of the program.
pub(super) struct Component {
    id: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) license: String,
    repository: Option<String>,
    /// Of the fetched archive; our own crates have none.
    checksum: Option<String>,
    /// Directory of its sources.
    pub(super) dir: PathBuf,
    dependencies: Vec<String>,
}

impl Component {
    fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }
}

/// All crates that are linked into the program, itself included, by name and version.
pub(super) fn components() -> Result<Vec<Component>> {
    let args = ["metadata", "--format-version", "1", "--locked", "--filter-platform", PLATFORM];
    let metadata: Value = serde_json::from_str(&command::output("cargo", &args)?)?;
    let lock =
        std::fs::read_to_string(command::root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let checksums = checksums(&lock);
    let edges = edges(&metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let start =
        packages.iter().find(|package| package["name"] == PROGRAM).context("there is no ossia package")?;
    let linked = reachable(text(&start["id"]), &edges);
    let mut components: Vec<Component> = packages
        .iter()
        .filter(|package| linked.contains(text(&package["id"])))
        .map(|package| component(package, &edges, &checksums))
        .collect();
    components.sort_by_key(Component::purl);
    Ok(components)
}

fn component(package: &Value, edges: &Edges, checksums: &BTreeMap<(String, String), String>) -> Component {
    let field = |name: &str| text(&package[name]).to_owned();
    let (id, name, version) = (field("id"), field("name"), field("version"));
    let manifest = PathBuf::from(field("manifest_path"));
    Component {
        // The slash is how licences were joined before SPDX expressions.
        license: field("license").replace('/', " OR ").replace("  ", " "),
        repository: package["repository"].as_str().map(str::to_owned),
        checksum: checksums.get(&(name.clone(), version.clone())).cloned(),
        dir: manifest.parent().map(PathBuf::from).unwrap_or_default(),
        dependencies: edges.get(&id).cloned().unwrap_or_default(),
        id,
        name,
        version,
    }
}

type Edges = BTreeMap<String, Vec<String>>;

/// Who links whom: neither what only builds or tests need, nor macros, which end in the compiler.
fn edges(metadata: &Value) -> Result<Edges> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let is_macro = |package: &&Value| {
        let mut kinds = package["targets"].as_array().into_iter().flatten().map(|target| &target["kind"]);
        kinds.any(|kind| kind == &json!(["proc-macro"]))
    };
    let macros: BTreeSet<&str> =
        packages.iter().filter(is_macro).map(|package| text(&package["id"])).collect();
    let nodes = metadata["resolve"]["nodes"].as_array().context("cargo metadata resolves nothing")?;
    let linked = |node: &Value| {
        let deps = node["deps"].as_array().into_iter().flatten();
        let normal = deps.filter(|dep| {
            dep["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"].is_null())
        });
        let ids = normal.map(|dep| text(&dep["pkg"])).filter(|id| !macros.contains(id));
        ids.map(str::to_owned).collect()
    };
    Ok(nodes.iter().map(|node| (text(&node["id"]).to_owned(), linked(node))).collect())
}

fn reachable(start: &str, edges: &Edges) -> BTreeSet<String> {
    let (mut found, mut open) = (BTreeSet::new(), vec![start.to_owned()]);
    while let Some(id) = open.pop() {
        if found.insert(id.clone()) {
            open.extend(edges.get(&id).into_iter().flatten().cloned());
        }
    }
    found
}

/// Checksums of Cargo.lock by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for block in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            line.map(|value| value.trim_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(checksum)) =
            (field("name"), field("version"), field("checksum"))
        {
            found.insert((name, version), checksum);
        }
    }
    found
}

/// The document; `hash` is the SHA-256 of the program.
pub(super) fn document(components: &[Component], hash: &str) -> Result<String> {
    let purls: BTreeMap<&str, String> =
        components.iter().map(|component| (component.id.as_str(), component.purl())).collect();
    let (mut program, mut libraries, mut dependencies) = (Value::Null, Vec::new(), Vec::new());
    for component in components {
        let mut entry = entry(component);
        let on: BTreeSet<&String> =
            component.dependencies.iter().filter_map(|id| purls.get(id.as_str())).collect();
        dependencies.push(json!({"ref": component.purl(), "dependsOn": on}));
        if component.name == PROGRAM {
            entry["type"] = json!("application");
            entry["hashes"] = json!([{"alg": "SHA-256", "content": hash}]);
            program = entry;
        } else {
            libraries.push(entry);
        }
    }
    let document = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": {"component": program},
        "components": libraries, "dependencies": dependencies,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn entry(component: &Component) -> Value {
    let purl = component.purl();
    let mut entry = json!({
        "type": "library", "bom-ref": purl, "name": component.name, "version": component.version, "purl": purl,
        "licenses": [{"expression": component.license}],
    });
    if let Some(checksum) = &component.checksum {
        entry["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    if let Some(repository) = &component.repository {
        entry["externalReferences"] = json!([{"type": "vcs", "url": repository}]);
    }
    entry
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_and_what_only_builds_or_tests_is_not() {
        let components = components().unwrap();
        let has = |name: &str| components.iter().any(|component| component.name == name);
        for (name, linked) in [
            ("ossia", true),
            ("candle-core", true),
            ("ring", true),
            ("libsqlite3-sys", true),
            ("serde_derive", false),
            ("proptest", false),
            ("cc", false),
            ("xtask", false),
        ] {
            assert_eq!(has(name), linked, "{name}");
        }
    }

    #[test]
    fn each_fetched_crate_has_a_licence_and_the_hash_that_it_was_fetched_under() {
        let components = components().unwrap();
        let document: Value = serde_json::from_str(&document(&components, "ab").unwrap()).unwrap();
        assert_eq!(document["metadata"]["component"]["hashes"][0]["content"], "ab");
        let libraries = document["components"].as_array().unwrap();
        assert!(libraries.len() > 100, "{}", libraries.len());
        for library in libraries {
            assert!(!text(&library["licenses"][0]["expression"]).is_empty(), "{library}");
            let is_ours = text(&library["name"]).starts_with("ossia-");
            assert_eq!(
                text(&library["hashes"][0]["content"]).len(),
                if is_ours { 0 } else { 64 },
                "{library}"
            );
        }
        let refs: BTreeSet<&str> = libraries.iter().map(|library| text(&library["bom-ref"])).collect();
        for line in document["dependencies"].as_array().unwrap() {
            assert!(line["dependsOn"].as_array().unwrap().iter().all(|on| refs.contains(text(on))), "{line}");
        }
    }
}
