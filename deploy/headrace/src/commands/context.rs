//! `headrace context`: names for installations, kept in a file of the person who uses them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;

use crate::cli::context::{Context, ContextAction};
use crate::cli::{exit, output};
use crate::installation::contexts::{self, Contexts};
use crate::installation::surroundings::Surroundings;

pub(crate) fn context(arguments: Context) -> anyhow::Result<()> {
    let surroundings = Surroundings::of_this_process();
    let _lock = match arguments.action {
        ContextAction::List { .. } => None,
        _ => Some(Contexts::lock(&surroundings)?),
    };
    let mut contexts = Contexts::read(&surroundings)?;
    let told = match arguments.action {
        ContextAction::List { json } => return list(&contexts, json),
        ContextAction::Add { name, config, data_dir } => {
            anyhow::ensure!(
                !contexts.contexts.contains_key(&name),
                "there is a context `{name}`; remove it first: `headrace context remove {name}`"
            );
            let named = contexts::Context { config: absolute(config)?, data_dir: absolute(data_dir)? };
            let told = format!("`{name}` is {}", shown(&named));
            contexts.contexts.insert(name, named);
            told
        }
        ContextAction::Use { name: Some(name), .. } => {
            let named = contexts.get(&name)?;
            let told = format!("commands that name no installation now use `{name}`: {}", shown(&named));
            contexts.current = Some(name);
            told
        }
        ContextAction::Use { name: None, .. } => {
            contexts.current = None;
            "no context is in use".to_owned()
        }
        ContextAction::Remove { name } => {
            if contexts.contexts.remove(&name).is_none() {
                return Err(exit::missing(format!("no context `{name}`")));
            }
            contexts.current = contexts.current.filter(|current| *current != name);
            format!("`{name}` is forgotten")
        }
    };
    let path = contexts.write(&surroundings)?;
    output::line(format_args!("{told} ({})", path.display()))?;
    Ok(())
}

/// An absolute path, so that it means the same in every directory.
fn absolute(path: Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    path.map(|path| {
        std::path::absolute(&path).with_context(|| format!("cannot make the path {} absolute", path.display()))
    })
    .transpose()
}

fn list(contexts: &Contexts, json: bool) -> anyhow::Result<()> {
    let width = contexts.contexts.keys().map(String::len).max().unwrap_or_default();
    for (name, named) in &contexts.contexts {
        let is_current = contexts.current.as_ref() == Some(name);
        if json {
            let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
            let (config, data_dir) = (text(&named.config), text(&named.data_dir));
            output::line(json!({ "name": name, "current": is_current, "config": config, "data_dir": data_dir }))?;
        } else {
            output::line(format_args!("{} {name:width$}  {}", if is_current { '*' } else { ' ' }, shown(named)))?;
        }
    }
    if contexts.contexts.is_empty() && !json {
        output::line("no contexts; `headrace context add` makes one")?;
    }
    Ok(())
}

fn shown(context: &contexts::Context) -> String {
    let part = |what: &str, path: &Option<PathBuf>| {
        let path: Option<&Path> = path.as_deref();
        path.map(|path| format!("{what} {}", path.display()))
    };
    let parts = [part("configuration", &context.config), part("data directory", &context.data_dir)];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
