//! `headrace completions` and `headrace man`. Both are generated from the definition of the command line.

use std::path::Path;

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_mangen::Man as Page;

use crate::cli::shell::{Completions, Man};
use crate::cli::{Cli, output};
use crate::installation::private;

const PROGRAM: &str = "headrace";
/// Every account of a machine may read manuals, unlike other files of this process.
const PAGE_MODE: u32 = 0o644;

pub(crate) fn completions(arguments: &Completions) -> anyhow::Result<()> {
    // Print the script in one piece, because the generator would panic when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), PROGRAM, &mut script);
    output::write(&script)?;
    Ok(())
}

pub(crate) fn man(arguments: &Man) -> anyhow::Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    let Some(directory) = &arguments.directory else {
        output::write(&page(&Page::new(command))?)?;
        return Ok(());
    };
    // After this, each command has the name of its page, such as `headrace-dead-list`.
    command.build();
    write(&command, directory)
}

/// Writes the pages of `command` and of all its subcommands.
fn write(command: &Command, directory: &Path) -> anyhow::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write(below, directory)?;
    }
    let man = Page::new(command.clone());
    let path = directory.join(man.get_filename());
    // Others may write to the directory. A link of theirs must not decide which file is overwritten.
    let write = || private::write_with_mode(&path, &page(&man)?, PAGE_MODE);
    write().with_context(|| format!("cannot write the manual {}", path.display()))
}

fn page(man: &Page) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    man.render(&mut text).context("cannot write the manual")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use clap::ValueEnum as _;
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_page_that_everybody_may_read() {
        let dir = tempfile::tempdir().unwrap();
        man(&Man { directory: Some(dir.path().to_owned()) }).unwrap();
        for (name, says) in [
            ("headrace.1", "Exit codes"),
            ("headrace-up.1", "gateway"),
            ("headrace-dead-redrive.1", "component"),
            ("headrace-context-add.1", "configuration"),
        ] {
            let path = dir.path().join(name);
            assert!(fs::read_to_string(&path).unwrap().contains(says), "{name}");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, PAGE_MODE, "{name}");
        }
    }

    #[test]
    fn a_link_in_the_place_of_a_page_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (pages, victim) = (dir.path().join("pages"), dir.path().join("victim"));
        fs::create_dir(&pages).unwrap();
        fs::write(&victim, "untouched").unwrap();
        symlink(&victim, pages.join("headrace.1")).unwrap();
        man(&Man { directory: Some(pages.clone()) }).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert!(fs::symlink_metadata(pages.join("headrace.1")).unwrap().is_file());
        let names = fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(names.into_iter().all(|name| name.ends_with(".1")), "nothing else is left there");
    }

    #[test]
    fn every_shell_completes_every_command() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), PROGRAM, &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }
}
