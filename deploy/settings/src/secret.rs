//! Secrets: read from files, and kept out of messages.

use std::fs::File;
use std::io::Read;

use crate::origin::{ROOT, Span};
use crate::schema::SecretForm;

/// The largest file of secrets. It bounds memory when a path names a device or a log by mistake.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What a file of secrets holds.
pub(crate) enum Content {
    One(String),
    Many(Vec<String>),
}

/// Reads a file of secrets. The error names the path and the reason, never the content.
pub(crate) fn read(path: &str, form: SecretForm) -> Result<Content, String> {
    let refused = |reason: &str| format!("the secret file `{path}` cannot be read: {reason}");
    let file = File::open(path).map_err(|error| refused(&error.to_string()))?;
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| refused(&error.to_string()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(refused(&format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| refused("it is not UTF-8 text"))?;
    Ok(match form {
        SecretForm::One => Content::One(without_line_break(&text).to_owned()),
        SecretForm::Many => {
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            Content::Many(lines.map(str::to_owned).collect())
        }
    })
}

fn without_line_break(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// The secrets of a configuration while it is loaded, to keep them out of serde's messages.
#[derive(Default)]
pub(crate) struct Secrets {
    spans: Vec<Span>,
    texts: Vec<String>,
}

impl Secrets {
    pub(crate) fn add(&mut self, span: Span, text: &str) {
        self.spans.push(span);
        self.texts.push(text.to_owned());
    }

    /// A message about the value at `span` that shows no secret.
    ///
    /// The error of a table may quote a secret in the table. So this also searches for the texts of all secrets.
    pub(crate) fn redact(&self, message: &str, span: &Span) -> String {
        let escaped = |text: &String| text.escape_debug().to_string();
        let quoted =
            |text: &String| !text.is_empty() && (message.contains(text.as_str()) || message.contains(&escaped(text)));
        let is_secret = *span != ROOT && self.spans.contains(span);
        if is_secret || self.texts.iter().any(quoted) {
            "the value is refused; the reason is not shown because it may contain a secret".to_owned()
        } else {
            message.to_owned()
        }
    }
}
