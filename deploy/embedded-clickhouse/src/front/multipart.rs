//! Reads a form body (`multipart/form-data`). Clients send the statement and its parameters in a form when a URL would
//! be too long. The `clickhouse` crate always does. ClickHouse also accepts external tables in such forms. We do not
//! support them, and the error says so.

use memchr::memmem;

use super::failure::Failure;
use crate::engine::Exception;

/// The boundary that the `Content-Type` of a form names. `None` for other bodies.
pub(super) fn boundary(content_type: &str) -> Option<String> {
    let mut parts = content_type.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let attribute = |part: &str| {
        let (name, value) = part.split_once('=')?;
        let value = value.trim_matches('"');
        (name.eq_ignore_ascii_case("boundary") && !value.is_empty()).then(|| value.to_owned())
    };
    parts.find_map(attribute)
}

/// The fields of a form, in their order.
pub(super) fn fields(body: &[u8], boundary: &str) -> Result<Vec<(String, String)>, Failure> {
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    // At the very beginning, the delimiter has no line break before it.
    let mut rest = body;
    if let Some(after) = rest.strip_prefix(&delimiter[2..]) {
        rest = after;
    } else {
        let start = memmem::find(rest, &delimiter).ok_or_else(malformed)?;
        rest = &rest[start + delimiter.len()..];
    }
    let mut fields = Vec::new();
    while !rest.starts_with(b"--") {
        rest = rest.strip_prefix(b"\r\n").ok_or_else(malformed)?;
        let end = memmem::find(rest, &delimiter).ok_or_else(malformed)?;
        fields.push(field(&rest[..end])?);
        rest = &rest[end + delimiter.len()..];
    }
    Ok(fields)
}

fn field(part: &[u8]) -> Result<(String, String), Failure> {
    let head_end = memmem::find(part, b"\r\n\r\n").ok_or_else(malformed)?;
    let head = std::str::from_utf8(&part[..head_end]).map_err(|_| malformed())?;
    let disposition = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"))
        .map(|(_, value)| value)
        .ok_or_else(malformed)?;
    let attribute = |wanted: &str| {
        let mut attributes = disposition.split(';').filter_map(|part| part.trim().split_once('='));
        attributes.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim_matches('"'))
    };
    if attribute("filename").is_some() {
        return Err(Exception::new(48, "NOT_IMPLEMENTED", "external tables are not supported").into());
    }
    let name = attribute("name").ok_or_else(malformed)?.to_owned();
    let value = String::from_utf8(part[head_end + 4..].to_vec()).map_err(|_| malformed())?;
    Ok((name, value))
}

fn malformed() -> Failure {
    Exception::new(36, "BAD_ARGUMENTS", "the multipart/form-data body is malformed").into()
}

#[cfg(test)]
mod tests {
    use super::{boundary, fields};

    #[test]
    fn fields_are_read_in_order() {
        let body = b"--B\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT\r\n 1\r\n\
                     --B\r\ncontent-disposition: form-data; name=\"param_x\"\r\n\r\n\r\n--B--\r\n";
        let expected = [("query".to_owned(), "SELECT\r\n 1".to_owned()), ("param_x".to_owned(), String::new())];
        assert_eq!(fields(body, "B").unwrap(), expected);
    }

    #[test]
    fn what_is_no_form_is_refused() {
        let file = "--B\r\nContent-Disposition: form-data; name=\"t\"; filename=\"t\"\r\n\r\n1\r\n--B--";
        for (body, code) in [("", 36), ("--B", 36), ("--B\r\nx\r\n--B--", 36), ("--B\r\n\r\n\r\n", 36), (file, 48)] {
            assert_eq!(fields(body.as_bytes(), "B").unwrap_err().exception.code(), code, "{body}");
        }
    }

    #[test]
    fn the_boundary_is_found() {
        assert_eq!(boundary("multipart/form-data; charset=utf-8; boundary=\"a b\"").as_deref(), Some("a b"));
        assert_eq!(boundary("text/plain; boundary=a"), None);
    }
}
