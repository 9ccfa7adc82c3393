//! The engine's own access rights and memory limits. We write them to a configuration file at each start.
//!
//! The file's grants list what is allowed. The list must never hold `FILE`, `URL`, `S3`, `REMOTE` or any other source,
//! and no rights over backups, dictionaries, functions or users. Of the `SYSTEM` commands, it may hold only those for
//! merges. Without the file, the engine would grant everything and would read any `config.xml` in the current
//! directory.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::memory::Memory;
use super::policy::{ENGINES, IMPLIED_ENGINES, PARSER, TEMPORARY_BYTES_MAX};

/// The file, in the data directory.
const FILE: &str = "headrace-engine.xml";
/// A folder that stays empty. The engine looks there for the files, scripts, schemas and disks that statements name.
const EMPTY: &str = "headrace-nothing";

/// What a client may do to every table.
const GRANTS: &str = "SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, CREATE TEMPORARY TABLE, \
                      DROP DATABASE, DROP TABLE, DROP VIEW, UNDROP TABLE, TRUNCATE, OPTIMIZE, CHECK, KILL QUERY, \
                      SYSTEM MERGES, SYSTEM TTL MERGES, SYSTEM VIEWS";

/// The settings of each statement, where they differ from the engine's defaults.
const PROFILE: [(&str, &str); 6] = [
    // The broker uses the same disk, so a statement that sorts on disk must leave 2 GiB free.
    ("min_free_disk_space_for_temporary_data", "2147483648"),
    // The engine would run the text `garbage` as `SELECT garbage`.
    ("implicit_select", "0"),
    // Introspection functions would show this process's memory.
    ("allow_introspection_functions", "0"),
    // The policy cannot see expressions in the data of `VALUES`, so the engine must not evaluate them. See
    // `policy::values_are_plain`.
    ("input_format_values_interpret_expressions", "0"),
    // With templates, the engine would evaluate these expressions anyway.
    ("input_format_values_deduce_templates_of_expressions", "0"),
    ("allow_ddl", "1"),
];

/// Settings that no statement may change. The statement policy refuses them too. This list catches what gets past the
/// policy.
const FIXED: [&str; 16] = [
    "min_free_disk_space_for_temporary_data",
    "input_format_values_deduce_templates_of_expressions",
    "allow_introspection_functions",
    "dialect",
    "format_template_row",
    "format_template_resultset",
    "format_schema",
    "format_avro_schema_registry_url",
    "implicit_select",
    "max_memory_usage_for_user",
    "max_untracked_memory",
    "output_format_schema",
    "input_format_record_errors_file_path",
    "merge_tree_disk",
    "merge_tree_table_disk",
    "merge_tree_storage_policy",
];

/// The folder that stays empty.
pub(super) fn empty(data_dir: &Path) -> PathBuf {
    data_dir.join(EMPTY)
}

pub(super) fn write(data_dir: &Path, memory: &Memory) -> io::Result<PathBuf> {
    let empty = empty(data_dir);
    fs::create_dir_all(&empty)?;
    let path = data_dir.join(FILE);
    let text = text(&path, &empty, memory);
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(text.as_bytes())?;
    Ok(path)
}

fn text(path: &Path, empty: &Path, memory: &Memory) -> String {
    let (path, empty) = (escaped(&path.to_string_lossy()), escaped(&empty.to_string_lossy()));
    let mut text = String::from("<!-- Written by Headrace at each start. -->\n<clickhouse>\n");
    let mut server = |name: &str, value: &str| {
        let _ = writeln!(text, "  <{name}>{value}</{name}>");
    };
    // The client's answer already says what failed. Without this setting, the engine would also log to standard error.
    server("logger", "<level>fatal</level>");
    server("users_config", &path);
    server("max_server_memory_usage", &memory.all_bytes.to_string());
    server("max_temporary_data_on_disk_size", &TEMPORARY_BYTES_MAX.saturating_mul(2).to_string());
    for folder in ["user_files_path", "user_scripts_path", "format_schema_path", "custom_local_disks_base_directory"] {
        server(folder, &format!("{empty}/"));
    }
    server("remote_url_allow_hosts", "");
    server("access_control_improvements", "<table_engines_require_grant>true</table_engines_require_grant>");
    server(
        "profiles",
        &format!("<default>{}<constraints>{}</constraints></default>", profile(memory), constraints(memory)),
    );
    let engines: String =
        ENGINES.iter().chain(&IMPLIED_ENGINES).map(|name| format!(", TABLE ENGINE ON `{name}`")).collect();
    let grants =
        format!("<query>GRANT {GRANTS} ON *.*</query><query>GRANT {}</query>", engines.trim_start_matches(", "));
    server(
        "users",
        &format!(
            "<default><password></password><profile>default</profile><quota>default</quota>\
             <networks><ip>::/0</ip></networks><grants>{grants}</grants></default>"
        ),
    );
    server("quotas", "<default/>");
    text.push_str("</clickhouse>\n");
    text
}

fn profile(memory: &Memory) -> String {
    let mut text = String::new();
    let bounds = PARSER.iter().map(|(name, value)| (*name, value.to_string()));
    let own = PROFILE.iter().map(|(name, value)| (*name, (*value).to_owned()));
    let sizes = [
        ("max_memory_usage", memory.statement_bytes.to_string()),
        ("max_temporary_data_on_disk_size_for_query", TEMPORARY_BYTES_MAX.to_string()),
    ];
    for (name, value) in bounds.chain(own).chain(sizes) {
        let _ = write!(text, "<{name}>{value}</{name}>");
    }
    text
}

fn constraints(memory: &Memory) -> String {
    let mut text = String::new();
    let sizes = [
        ("max_memory_usage", memory.statement_bytes),
        ("max_temporary_data_on_disk_size_for_query", TEMPORARY_BYTES_MAX),
    ];
    for (name, most) in PARSER.iter().copied().chain(sizes) {
        let _ = write!(text, "<{name}><min>1</min><max>{most}</max></{name}>");
    }
    for name in FIXED {
        let _ = write!(text, "<{name}><readonly/></{name}>");
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
