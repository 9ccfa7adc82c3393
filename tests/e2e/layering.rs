//! Dependencies between crates, and between the modules of a crate, point one way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// The crates of ours that each crate may depend on, except in tests. A crate that is not listed may depend on none.
const ALLOWED: [(&str, &[&str]); 5] = [
    ("headrace-runtime", &["headrace-schemas"]),
    ("headrace-ingest", &["headrace-runtime", "headrace-schemas"]),
    ("headrace-stages", &["headrace-runtime", "headrace-schemas"]),
    ("headrace-sinks", &["headrace-runtime", "headrace-schemas"]),
    (
        "headrace",
        &[
            "headrace-embedded-clickhouse",
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
/// Crates that may depend on everything, and on which only tests may depend.
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
            // A build script must keep to the same rule as its crate.
            if ours && dependency.kind != DependencyKind::Development && !below.contains(&dependency.name.as_str()) {
                wrong.push(format!("{} → {}", package.name, dependency.name));
            }
        }
    }
    assert!(wrong.is_empty(), "dependencies that must not be: {wrong:?}");
}

/// Looks at the modules directly below a crate's `src`. Modules that use each other cannot be read one by one.
#[test]
fn modules_do_not_use_each_other_in_a_circle() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let mut circles = Vec::new();
    let crates = [
        "schemas",
        "pipeline/runtime",
        "pipeline/stages",
        "ingest",
        "sinks",
        "deploy/embedded-clickhouse",
        "deploy/headrace",
        "deploy/local",
        "benches",
        "tests",
    ];
    for name in crates {
        let arrows = arrows(&root.join(name).join("src"));
        assert!(arrows.len() > 1, "{name} has modules");
        for module in arrows.keys() {
            if reached(&arrows, module).contains(module) {
                circles.push(format!("{name}: {module}"));
            }
        }
    }
    assert!(circles.is_empty(), "modules that use each other in a circle: {circles:#?}");
}

/// The modules below `source`, and which of them each uses outside its tests.
fn arrows(source: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut modules: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(source).unwrap().map(Result::unwrap) {
        let module = entry.path().file_stem().unwrap().to_string_lossy().into_owned();
        // `lib.rs` and `main.rs` name the modules, and `bin` is another crate.
        if !["lib", "main", "bin"].contains(&module.as_str()) {
            files(&entry.path(), modules.entry(module).or_default());
        }
    }
    let uses = |module: &String, files: &Vec<PathBuf>| {
        let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
        let used = texts.flat_map(|text| used(&text)).filter(|used| used != module && modules.contains_key(used));
        (module.clone(), used.collect())
    };
    modules.iter().map(|(module, files)| uses(module, files)).collect()
}

/// The modules of its own crate that a file uses. What follows its `mod tests` is for tests only.
fn used(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match rest.strip_prefix('{') {
            Some(group) => {
                used.extend(group.split('}').next().unwrap_or_default().split(',').map(|own| name(own.trim())));
            }
            None => _ = used.insert(name(rest)),
        }
    }
    used
}

fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.ends_with("tests") || path.ends_with("tests.rs") {
        return;
    }
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| files(&entry.unwrap().path(), found));
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_owned());
    }
}

/// Every module that `module` uses, directly or through others.
fn reached<'a>(arrows: &'a BTreeMap<String, BTreeSet<String>>, module: &'a str) -> BTreeSet<&'a String> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![module]);
    while let Some(module) = open.pop() {
        open.extend(arrows[module].iter().filter(|next| reached.insert(*next)).map(String::as_str));
    }
    reached
}
