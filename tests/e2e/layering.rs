//! Arrows between the crates, and between the rooms of each, point one way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

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

/// A room is a folder or a file directly below a crate's `src`. Two that use each other cannot be read one by one.
#[test]
fn rooms_do_not_use_each_other_in_a_circle() {
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
        assert!(arrows.len() > 1, "{name} has rooms");
        for room in arrows.keys() {
            if reached(&arrows, room).contains(room) {
                circles.push(format!("{name}: {room}"));
            }
        }
    }
    assert!(circles.is_empty(), "rooms that use each other in a circle: {circles:#?}");
}

/// The rooms below `source`, and which of them each uses, its tests aside.
fn arrows(source: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut rooms: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(source).unwrap().map(Result::unwrap) {
        let room = entry.path().file_stem().unwrap().to_string_lossy().into_owned();
        // The crate's own files show the rooms, and `bin` is another crate.
        if !["lib", "main", "bin"].contains(&room.as_str()) {
            files(&entry.path(), rooms.entry(room).or_default());
        }
    }
    let uses = |room: &String, files: &Vec<PathBuf>| {
        let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
        let used = texts.flat_map(|text| used(&text)).filter(|used| used != room && rooms.contains_key(used));
        (room.clone(), used.collect())
    };
    rooms.iter().map(|(room, files)| uses(room, files)).collect()
}

/// The names that a file takes from its crate; what follows its `mod tests` is for tests alone.
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

/// Every room that `room` uses, straight or through others.
fn reached<'a>(arrows: &'a BTreeMap<String, BTreeSet<String>>, room: &'a str) -> BTreeSet<&'a String> {
    let (mut reached, mut open) = (BTreeSet::new(), vec![room]);
    while let Some(room) = open.pop() {
        open.extend(arrows[room].iter().filter(|next| reached.insert(*next)).map(String::as_str));
    }
    reached
}
