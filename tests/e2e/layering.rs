//! Arrows between the crates point one way.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// What each crate may depend on, tests aside. A crate that is not here may depend on nothing of ours.
const ALLOWED: [(&str, &[&str]); 5] = [
    ("headrace-runtime", &["headrace-schemas"]),
    ("headrace-ingest", &["headrace-runtime", "headrace-schemas"]),
    ("headrace-stages", &["headrace-runtime", "headrace-schemas"]),
    ("headrace-sinks", &["headrace-runtime", "headrace-schemas"]),
    (
        "headrace",
        &[
            "headrace-ingest",
            "headrace-local",
            "headrace-runtime",
            "headrace-schemas",
            "headrace-settings",
            "headrace-sinks",
            "headrace-stages",
        ],
    ),
];
/// They look at everything, and nothing but tests may look at them.
const OUTSIDE: [&str; 2] = ["headrace-tests", "headrace-benches"];

#[test]
fn crates_depend_only_on_what_is_below_them() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec().unwrap();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let packages = metadata.workspace_packages();
    let members: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let known: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).chain(OUTSIDE).collect();
    assert!(known.is_subset(&members), "a crate was renamed: {:?}", known.difference(&members));

    let mut wrong = Vec::new();
    for package in packages.iter().filter(|package| !OUTSIDE.contains(&package.name.as_str())) {
        let below = allowed.get(package.name.as_str()).copied().unwrap_or_default();
        for dependency in &package.dependencies {
            let ours = members.contains(dependency.name.as_str());
            // Build scripts are bound as the crates themselves are.
            if ours && dependency.kind != DependencyKind::Development && !below.contains(&dependency.name.as_str()) {
                wrong.push(format!("{} → {}", package.name, dependency.name));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that must not be: {wrong:?}");
}
