//! House rules as a program: who may use whom, what is pure, what is never left in a file.
//!
//! The first table is the module table of ARCHITECTURE.md; a change here is a change of the architecture. The rules look at code without
//! comments, texts and test modules; a test may know more than what it tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A top-level module of `src/` and the modules of ours it may use: of those above it, never below, so that none uses itself.
const MODULES: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("table", &["model"]),
    ("join", &["model", "table"]),
    ("config", &["model", "join"]),
    ("logging", &["config"]),
    ("debezium", &["model", "config"]),
    ("mysql", &["model", "config", "table", "debezium"]), // the snapshot fills tables piece by piece
    ("kafka", &["model", "join", "config"]),
    ("flow", &["model", "table", "join", "config", "mysql", "kafka", "debezium"]),
    ("metrics", &["model", "table", "join", "config", "mysql", "flow"]),
    ("http", &["model", "table", "join", "config", "mysql", "flow", "metrics"]),
    ("app", &["model", "table", "join", "config", "mysql", "kafka", "flow", "metrics", "http"]),
    ("simulate", &["model", "config"]),
    ("demo", &["model", "table", "join", "config", "mysql", "kafka", "flow", "metrics", "http", "app", "simulate", "logging"]),
    ("ask", &["config"]),
    ("cli", &["model", "config", "logging", "mysql", "kafka", "app", "simulate", "demo", "ask"]),
    ("main", &["cli"]),
];

/// Files and folders of `src/` that neither wait nor look at the world: time and input come as arguments.
const PURE: &[&str] = &[
    "model/",
    "table/mod.rs",
    "table/history.rs",
    "table/journal.rs",
    "join/",
    "debezium/",
    "mysql/assemble.rs",
    "mysql/assemble/state.rs",
    "mysql/charset.rs",
    "mysql/cursor.rs",
    "mysql/decode.rs",
    "mysql/event.rs",
    "mysql/json.rs",
    "mysql/json_diff.rs",
    "mysql/keys.rs",
    "mysql/render.rs",
    "mysql/result.rs",
    "mysql/statement.rs",
    "mysql/statement/",
    "mysql/table_map.rs",
    "mysql/text.rs",
    "mysql/wire.rs",
];

const IMPURE_WORDS: &[&str] =
    &["async", "await", "tokio", "std::fs", "std::net", "std::env", "std::thread", "Instant::now", "SystemTime::now", "Timestamp::now"];

const UNFINISHED_WORDS: &[&str] = &["todo!", "unimplemented!", "dbg!"];

const MOST_LINES: usize = 900;

#[test]
fn a_module_uses_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        let module = source.module();
        if module == "lib" {
            continue;
        }
        let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: module `{module}` is not in the table of tests/tidy.rs", source.name));
            continue;
        };
        for (line, used) in uses(&source.code) {
            if used != module && !allowed.contains(&used.as_str()) && MODULES.iter().any(|(name, _)| *name == used) {
                wrong.push(format!("{}:{line}: `{module}` may not use `{used}`", source.name));
            }
        }
        for (line, _) in lines_with(&source.code, &["super::super::"]) {
            wrong.push(format!("{}:{line}: write the path from `crate`, so that it can be checked", source.name));
        }
    }
    none(&wrong);
}

#[test]
fn the_table_has_no_circle() {
    let below = |row: usize, used: &str| !MODULES[..row].iter().any(|(name, _)| *name == used);
    let rows = MODULES.iter().enumerate();
    let wrong = rows.flat_map(|(row, (name, allowed))| {
        allowed.iter().filter(move |used| below(row, used)).map(move |used| format!("`{used}` does not stand above `{name}`"))
    });
    none(&wrong.collect::<Vec<_>>());
}

#[test]
fn the_table_names_no_module_that_is_gone() {
    let present: BTreeSet<String> = sources("src").iter().map(Source::module).collect();
    let gone = MODULES.iter().filter(|(name, _)| !present.contains(*name)).map(|(name, _)| format!("no module `{name}` in src"));
    let missing = PURE.iter().filter(|path| !root().join("src").join(path).exists()).map(|path| format!("no src/{path}"));
    none(&gone.chain(missing).collect::<Vec<_>>());
}

#[test]
fn the_middle_is_pure() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        if PURE.iter().any(|path| source.name["src/".len()..].starts_with(path)) {
            let found = lines_with(&source.code, IMPURE_WORDS);
            wrong.extend(found.into_iter().map(|(line, word)| format!("{}:{line}: `{word}` in a pure module", source.name)));
        }
    }
    none(&wrong);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests", "benches", "fuzz"] {
        for source in sources(folder) {
            let found = lines_with(&source.code, UNFINISHED_WORDS);
            wrong.extend(found.into_iter().map(|(line, word)| format!("{}:{line}: `{word}`", source.name)));
        }
    }
    none(&wrong);
}

#[test]
fn no_file_holds_too_much() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests", "benches", "fuzz"] {
        for source in sources(folder).into_iter().filter(|source| source.lines > MOST_LINES) {
            wrong.push(format!("{}: {} lines; a file over {MOST_LINES} usually holds two things", source.name, source.lines));
        }
    }
    none(&wrong);
}

#[test]
fn no_path_of_a_machine_is_in_the_tree() {
    // Taken apart, so that this file does not find itself.
    let here = root().display().to_string();
    let paths = [concat!("/ro", "ot/"), concat!("/ho", "me/"), here.as_str()];
    let mut wrong = Vec::new();
    for file in files(&root()) {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let found = text.lines().enumerate().filter(|(_, line)| paths.iter().any(|path| line.contains(path)));
        wrong.extend(found.map(|(index, line)| format!("{}:{}: {}", relative(&file), index + 1, line.trim())));
    }
    none(&wrong);
}

/// Fails with one line for each fault.
#[track_caller]
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

// === sources ===

struct Source {
    /// Relative to the repository, with `/`.
    name: String,
    lines: usize,
    /// Line for line the file, without comments, texts and inline test modules.
    code: String,
}

impl Source {
    /// `src/mysql/json.rs` and `src/mysql.rs` are both `mysql`.
    fn module(&self) -> String {
        let path = self.name.trim_start_matches("src/");
        path.split(['/', '.']).next().unwrap_or_default().to_owned()
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn relative(file: &Path) -> String {
    file.strip_prefix(root()).expect("a file of the repository").display().to_string()
}

/// The Rust files below a folder, which need not exist; without files of tests alone.
fn sources(folder: &str) -> Vec<Source> {
    let rust = files(&root().join(folder)).into_iter().filter(|file| file.extension().is_some_and(|end| end == "rs"));
    rust.filter(|file| folder != "src" || !file.ends_with("tests.rs"))
        .map(|file| {
            let text = std::fs::read_to_string(&file).expect("read a source file");
            Source { name: relative(&file), lines: text.lines().count(), code: without_tests(&code_of(&text)) }
        })
        .collect()
}

/// Every file below a folder but what git and builds keep there, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("read a folder").path();
            if path.is_dir() {
                if !path.ends_with(".git") && !path.ends_with("target") && !path.ends_with("node_modules") {
                    folders.push(path);
                }
            } else if !path.ends_with(".git") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The modules that code names after `crate::`, with line numbers; groups in braces are opened.
fn uses(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(is_name) {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        if !rest.starts_with('{') {
            found.push((line, rest.chars().take_while(|&c| is_name(c)).collect()));
            continue;
        }
        let mut depth = 0;
        let mut first = false;
        let mut name = String::new();
        for c in rest.chars() {
            match c {
                '{' => {
                    depth += 1;
                    first = depth == 1;
                }
                '}' => depth -= 1,
                ',' if depth == 1 => first = true,
                c if is_name(c) && first => name.push(c),
                _ => {}
            }
            if !name.is_empty() && !is_name(c) {
                found.push((line, std::mem::take(&mut name)));
                first = c == ',' && depth == 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// Where whole words stand.
fn lines_with<'w>(code: &str, words: &[&'w str]) -> Vec<(usize, &'w str)> {
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        for word in words {
            let whole = line
                .match_indices(word)
                .any(|(at, _)| !line[..at].ends_with(is_name) && (word.ends_with(':') || !line[at + word.len()..].starts_with(is_name)));
            if whole {
                found.push((index + 1, *word));
            }
        }
    }
    found
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Cuts the test module at the end of a file.
fn without_tests(code: &str) -> String {
    let end = code.match_indices("#[cfg(test)]").find(|(at, mark)| code[at + mark.len()..].trim_start().starts_with("mod tests {"));
    code[..end.map_or(code.len(), |(at, _)| at)].to_owned()
}

/// Blanks comments and the inside of texts; every line break stays.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after_name = code.ends_with(is_name);
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            end_of_comment(rest)
        } else if c == '"' {
            end_of_text(rest)
        } else if !after_name && (rest.starts_with("r\"") || rest.starts_with("r#") || rest.starts_with("br\"") || rest.starts_with("br#"))
        {
            end_of_raw_text(rest)
        } else if c == '\'' {
            end_of_char(rest)
        } else {
            0
        };
        if skipped == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.extend(rest[..skipped].chars().filter(|&c| c == '\n'));
            rest = &rest[skipped..];
        }
    }
    code
}

fn end_of_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn end_of_text(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// 0 for a raw identifier (`r#type`).
fn end_of_raw_text(rest: &str) -> usize {
    let start = rest.find(['"', '#']).expect("the caller saw one");
    let marks = rest[start..].chars().take_while(|&c| c == '#').count();
    if !rest[start + marks..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(marks));
    let inside = start + marks + 1;
    rest[inside..].find(&end).map_or(rest.len(), |at| inside + at + end.len())
}

/// 0 for a lifetime.
fn end_of_char(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => rest[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(0, |(at, _)| 2 + at + 1),
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

#[test]
fn the_reader_of_sources_sees_what_is_code() {
    let code = "a /* x /* y */ z */ b // crate::gone\n\"crate::\\\"gone\" r#\"crate::gone\"# 'c' '\\'' &'a r#type";
    assert_eq!(code_of(code), "a  b \n    &'a r#type");
    let used = uses("use crate::{model::{Row, Key},\n table};\nfn f(x: crate::join::X, y: mycrate::z) {}");
    assert_eq!(used, [(1, "model".to_owned()), (1, "table".to_owned()), (3, "join".to_owned())]);
    assert_eq!(lines_with("let asynchronous = 1;\nasync fn f()", &["async"]), [(2, "async")]);
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\n use crate::x;\n}"), "a\n");
}
