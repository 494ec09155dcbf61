//! Partial updates of JSON documents (PARTIAL_UPDATE_ROWS): differences applied to the document before the update.
//!
//! Each difference is an operation byte, a path (`$.a[0]."b c"`) with its length, and, but for a removal, a binary JSON value with its
//! length. Only what a path goes through is taken apart; all else stays in its binary form.

use std::borrow::Cow;

use super::cursor::{Cursor, Fault};
use super::json::{MAX_DEPTH, Node, Raw};

/// One step of a path.
#[derive(Debug, PartialEq, Eq)]
enum Leg<'a> {
    Member(Cow<'a, [u8]>),
    Element(usize),
}

enum Operation {
    Replace,
    Insert,
    Remove,
}

/// The document with all differences applied, in order.
pub(super) fn apply<'a>(document: &'a [u8], differences: &'a [u8]) -> Result<Node<'a>, Fault> {
    let mut root = root(document)?;
    let mut cursor = Cursor::new(differences);
    while !cursor.is_empty() {
        let operation = match cursor.u8()? {
            0 => Operation::Replace,
            1 => Operation::Insert,
            2 => Operation::Remove,
            _ => return Err(Fault::Invalid("a JSON difference other than replace, insert, remove")),
        };
        let legs = legs(cursor.lenenc_bytes()?)?;
        let value = match operation {
            Operation::Remove => None,
            _ => Some(self::root(cursor.lenenc_bytes()?)?),
        };
        change(&mut root, &legs, operation, value)?;
    }
    Ok(root)
}

/// The document as one node; an empty one stands for JSON null.
fn root(document: &[u8]) -> Result<Node<'_>, Fault> {
    let raw = document.split_first().map(|(&kind, bytes)| Raw { kind, bytes });
    Ok(Node::Raw(raw.unwrap_or(Raw { kind: 4, bytes: &[0] })))
}

fn change<'a>(root: &mut Node<'a>, legs: &[Leg<'a>], operation: Operation, value: Option<Node<'a>>) -> Result<(), Fault> {
    const NOWHERE: Fault = Fault::Invalid("a JSON difference whose path is not in the document");
    let Some((last, parents)) = legs.split_last() else {
        return match (operation, value) {
            (Operation::Replace, Some(value)) => {
                *root = value;
                Ok(())
            }
            _ => Err(NOWHERE),
        };
    };
    let mut node = root;
    for leg in parents {
        node = step(node, leg)?.ok_or(NOWHERE)?;
    }
    match (operation, value) {
        (Operation::Replace, Some(value)) => *step(node, last)?.ok_or(NOWHERE)? = value,
        (Operation::Insert, Some(value)) => {
            take_apart(node)?;
            match (node, last) {
                (Node::Object(members), Leg::Member(name)) => match members.binary_search_by(|(key, _)| by_length(key, name)) {
                    Ok(_) => return Err(Fault::Invalid("a JSON difference inserts a member that exists")),
                    Err(at) => members.insert(at, (name.clone(), value)),
                },
                (Node::Array(elements), Leg::Element(index)) => elements.insert((*index).min(elements.len()), value),
                _ => return Err(NOWHERE),
            }
        }
        _ => {
            take_apart(node)?;
            match (node, last) {
                (Node::Object(members), Leg::Member(name)) => {
                    let at = members.iter().position(|(key, _)| key == name).ok_or(NOWHERE)?;
                    members.remove(at);
                }
                (Node::Array(elements), Leg::Element(index)) if *index < elements.len() => {
                    elements.remove(*index);
                }
                _ => return Err(NOWHERE),
            }
        }
    }
    Ok(())
}

/// The child a leg names. `[0]` of what is no array is the value itself, as in the server's paths.
fn step<'n, 'a>(node: &'n mut Node<'a>, leg: &Leg<'_>) -> Result<Option<&'n mut Node<'a>>, Fault> {
    take_apart(node)?;
    Ok(match (node, leg) {
        (Node::Object(members), Leg::Member(name)) => members.iter_mut().find(|(key, _)| key == name).map(|(_, value)| value),
        (Node::Array(elements), Leg::Element(index)) => elements.get_mut(*index),
        (node, Leg::Element(0)) => Some(node),
        _ => None,
    })
}

/// Turns an object or array in binary form into a list of its parts; anything else stays.
fn take_apart(node: &mut Node<'_>) -> Result<(), Fault> {
    let Node::Raw(raw) = node else { return Ok(()) };
    if !raw.is_container() {
        return Ok(());
    }
    let container = raw.container()?;
    *node = if container.is_object {
        let members = (0..container.count).map(|index| Ok((container.key(index)?.into(), Node::Raw(container.value(index)?))));
        Node::Object(members.collect::<Result<_, Fault>>()?)
    } else {
        Node::Array((0..container.count).map(|index| container.value(index).map(Node::Raw)).collect::<Result<_, _>>()?)
    };
    Ok(())
}

/// The order of object members in binary JSON: shorter names first, then by bytes.
fn by_length(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn legs(path: &[u8]) -> Result<Vec<Leg<'_>>, Fault> {
    const BAD_PATH: Fault = Fault::Invalid("a JSON difference with a path that cannot be read");
    let mut rest = path.strip_prefix(b"$").unwrap_or(path);
    let mut legs = Vec::new();
    while let [first, after @ ..] = rest {
        if legs.len() > MAX_DEPTH {
            return Err(BAD_PATH);
        }
        let (leg, after) = match (first, after) {
            (b'.', [b'"', ..]) => {
                let end = quoted_end(after).ok_or(BAD_PATH)?;
                let name: String = serde_json::from_slice(&after[..end]).map_err(|_| BAD_PATH)?;
                (Leg::Member(Cow::Owned(name.into_bytes())), &after[end..])
            }
            (b'.', _) => {
                let end = after.iter().position(|byte| matches!(byte, b'.' | b'[')).unwrap_or(after.len());
                (Leg::Member(Cow::Borrowed(&after[..end])), &after[end..])
            }
            (b'[', _) => {
                let end = after.iter().position(|&byte| byte == b']').ok_or(BAD_PATH)?;
                let index = std::str::from_utf8(&after[..end]).ok().and_then(|digits| digits.parse().ok()).ok_or(BAD_PATH)?;
                (Leg::Element(index), &after[end + 1..])
            }
            _ => return Err(BAD_PATH),
        };
        legs.push(leg);
        rest = after;
    }
    Ok(legs)
}

/// Length of the JSON string the text begins with, quotes included.
fn quoted_end(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    for (at, &byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}
