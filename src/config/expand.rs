//! References in text: `${NAME}` and `${NAME:-default}` take environment variables, `${file:PATH}` the content of a file,
//! `$${` is a literal `${` (contract G2). A `$` before anything else stands for itself, so template paths pass unchanged.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Surroundings;

/// A secret or a certificate is far smaller.
const FILE_BYTES: u64 = 1 << 20;

/// What is wrong with a reference, never with what it stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub message: String,
    pub remedy: String,
}

/// Whether `text` has a reference, so that its value does not stand in the file.
pub(super) fn has_reference(text: &str) -> bool {
    text.replace("$${", "").contains("${")
}

/// `text` with every reference replaced once: what comes in is not looked at again.
pub(super) fn expand(text: &str, around: &Surroundings<'_>) -> Result<String, Fault> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$${") {
            out.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let Some((reference, after)) = after.split_once('}') else {
                return Err(Fault {
                    message: "`${` without `}`".to_owned(),
                    remedy: "close the reference, or write `$${` for a literal `${`".to_owned(),
                });
            };
            out.push_str(&resolve(reference, around)?);
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn resolve(reference: &str, around: &Surroundings<'_>) -> Result<String, Fault> {
    if let Some(path) = reference.strip_prefix("file:") {
        return read(&around.folder.join(path)).map_err(|error| Fault {
            message: format!("cannot read the file of `${{{reference}}}`: {error}"),
            remedy: "relative paths are taken from the folder of the configuration file".to_owned(),
        });
    }
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if !is_variable(name) {
        return Err(Fault {
            message: format!("`${{{name}}}` is no reference"),
            remedy: "write `${NAME}`, `${NAME:-default}` or `${file:PATH}`, or `$${` for a literal `${`".to_owned(),
        });
    }
    match ((around.variable)(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Fault {
            message: format!("the environment variable {name} is not set"),
            remedy: format!("set {name}, or give a default: `${{{name}:-default}}`"),
        }),
    }
}

fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Text of a file without its last line end: editors and `echo` put one there, secrets do not have one.
fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(FILE_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES {
        return Err(std::io::Error::other("larger than 1 MiB"));
    }
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expand_here(text: &str) -> Result<String, String> {
        let variable = |name: &str| match name {
            "USER" => Some("larder".to_owned()),
            "EMPTY" => Some(String::new()),
            "NESTED" => Some("${USER}".to_owned()),
            _ => None,
        };
        let around = Surroundings { folder: Path::new("fixtures/config"), host: String::new(), variable: &variable };
        expand(text, &around).map_err(|fault| fault.message)
    }

    #[test]
    fn variables_defaults_and_literals() {
        assert_eq!(expand_here("a ${USER} b").unwrap(), "a larder b");
        assert_eq!(expand_here("${NONE:-x:-y}").unwrap(), "x:-y");
        assert_eq!(expand_here("[${NONE:-}]").unwrap(), "[]");
        assert_eq!(expand_here("${EMPTY:-x}").unwrap(), "x");
        assert_eq!(expand_here("${EMPTY}").unwrap(), "");
        assert_eq!(expand_here("$${USER}").unwrap(), "${USER}");
        assert_eq!(expand_here("$record.id $$ $").unwrap(), "$record.id $$ $");
        assert_eq!(expand_here("${NESTED}").unwrap(), "${USER}", "what comes in is not looked at again");
    }

    #[test]
    fn faults_name_the_reference() {
        assert_eq!(expand_here("${NONE}").unwrap_err(), "the environment variable NONE is not set");
        assert_eq!(expand_here("${USER").unwrap_err(), "`${` without `}`");
        assert_eq!(expand_here("${1A}").unwrap_err(), "`${1A}` is no reference");
        assert!(expand_here("${file:absent}").unwrap_err().starts_with("cannot read the file of `${file:absent}`"));
    }

    #[test]
    fn a_file_loses_its_last_line_end() {
        assert_eq!(expand_here("<${file:secret.txt}>").unwrap(), "<two\nlines>");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[${}:a-zA-Z\\-é]{0,40}") {
            let _ = expand_here(&text);
        }
    }
}
