//! Text of SQL to tokens: words, names, texts and symbols, without comments. Pure.
//!
//! Every text gives tokens. What ends too early ends with the text, so that a statement cut in two is never read as a shorter one
//! that means something else: its last token is then a text or a name.

use super::Modes;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// Key word, number or unquoted name.
    Word(String),
    /// Quoted name.
    Name(String),
    /// Text, with the bytes of `X'…'` and `'…'`.
    Text(Vec<u8>),
    Symbol(char),
}

pub fn tokens(text: &str, modes: Modes) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after = &rest[first.len_utf8()..];
        rest = match first {
            c if c.is_whitespace() => after,
            '#' => line_end(after),
            '-' if after.starts_with('-') && after[1..].chars().next().is_none_or(char::is_whitespace) => line_end(after),
            // `/*!80000 …*/` is run by MySQL, `/*M!100100 …*/` by MariaDB: only the frame is skipped. What a server leaves out for
            // its version is then read too, which can only add to what a statement may have changed.
            '/' if after.starts_with("*!") => version_end(&after[2..]),
            '/' if after.starts_with("*M!") => version_end(&after[3..]),
            '/' if after.starts_with('*') => after[1..].find("*/").map_or("", |end| &after[end + 3..]),
            '*' if after.starts_with('/') => &after[1..],
            '`' => quoted(after, '`', false, |bytes| tokens.push(Token::Name(lossy(bytes)))),
            '"' if modes.ansi_quotes => quoted(after, '"', false, |bytes| tokens.push(Token::Name(lossy(bytes)))),
            '\'' | '"' => quoted(after, first, !modes.no_backslash_escapes, |bytes| tokens.push(Token::Text(bytes))),
            'x' | 'X' if after.starts_with('\'') => quoted(&after[1..], '\'', false, |digits| tokens.push(Token::Text(unhex(&digits)))),
            c if is_word(c) => {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].to_owned()));
                &rest[end..]
            }
            c => {
                tokens.push(Token::Symbol(c));
                after
            }
        };
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$') || !c.is_ascii()
}

fn line_end(rest: &str) -> &str {
    rest.find('\n').map_or("", |end| &rest[end + 1..])
}

fn version_end(rest: &str) -> &str {
    rest.trim_start_matches(|c: char| c.is_ascii_digit())
}

/// Takes a quoted run (its opening quote is already taken) and gives back what follows. A doubled quote stands for itself.
fn quoted(rest: &str, quote: char, backslash: bool, take: impl FnOnce(Vec<u8>)) -> &str {
    let mut bytes = Vec::new();
    let mut chars = rest.char_indices().peekable();
    let mut buffer = [0; 4];
    while let Some((at, c)) = chars.next() {
        if c == quote && chars.next_if(|&(_, next)| next == quote).is_none() {
            take(bytes);
            return &rest[at + c.len_utf8()..];
        }
        let c = if backslash && c == '\\' { chars.next().map_or(c, |(_, escaped)| escaped) } else { c };
        bytes.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
    }
    take(bytes);
    ""
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

fn unhex(digits: &[u8]) -> Vec<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok()).unwrap_or(0);
    digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, &b| byte << 4 | digit(b))).collect()
}
