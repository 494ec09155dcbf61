//! Paths into records, items, rows and metadata, compiled.
//!
//! Text form: names between dots, `record.a.b`. A name that holds a dot, a blank or a bar stands in double quotes,
//! as in TOML: `record."user.name"`.

/// `record.a.b`, `item`, `index`, `meta.topic`, `<join>.column.…`, resolved against a [`Scope`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub root: Root,
    /// Member names below the root; array positions as decimal text.
    pub steps: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    Record,
    Item,
    Index,
    Meta(Meta),
    /// Index into `StreamPlan::joins`.
    Join(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
}

/// The names a path may begin with at its place.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// `item` and `index` exist.
    pub each: bool,
    /// Names of the joins usable here, in order.
    pub joins: Vec<String>,
}

/// What is wrong with a path, template or conversion, without its place; `config` adds that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathError {
    pub message: String,
    pub remedy: String,
}

const META: [(&str, Meta); 5] =
    [("topic", Meta::Topic), ("partition", Meta::Partition), ("offset", Meta::Offset), ("timestamp", Meta::Timestamp), ("key", Meta::Key)];

impl Path {
    /// Parses a path as it stands outside templates, without `$`.
    pub fn parse(text: &str, scope: &Scope) -> Result<Self, PathError> {
        let mut names = split(text)?.into_iter();
        let first = names.next().unwrap_or_default();
        let mut steps: Vec<String> = names.collect();
        let root = match first.as_str() {
            "record" => Root::Record,
            "item" if scope.each => Root::Item,
            "index" if scope.each => Root::Index,
            "meta" => Root::Meta(meta(&mut steps)?),
            name => Root::Join(scope.joins.iter().position(|j| j == name).ok_or_else(|| unknown_root(name, scope))?),
        };
        if matches!(root, Root::Index | Root::Meta(_)) && !steps.is_empty() {
            return Err(PathError::new(format!("`{text}` goes on below a plain value"), "end the path there"));
        }
        Ok(Self { root, steps })
    }

    /// Parses `each`, which is relative to the record.
    pub fn parse_each(text: &str) -> Result<Self, PathError> {
        Ok(Self { root: Root::Record, steps: split(text)? })
    }

    /// The path as it stands in a template; `joins` are the names in order.
    pub(super) fn describe(&self, joins: &[String]) -> String {
        let root = match self.root {
            Root::Record => "record",
            Root::Item => "item",
            Root::Index => "index",
            Root::Meta(_) => "meta",
            Root::Join(join) => joins.get(join).map_or("", String::as_str),
        };
        let meta = META.iter().filter(|m| self.root == Root::Meta(m.1)).map(|m| m.0);
        let names = meta.chain(self.steps.iter().map(String::as_str));
        names.fold(format!("${root}"), |path, name| path + "." + name)
    }
}

impl PathError {
    pub(super) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into() }
    }
}

/// `; did you mean …?` for the candidate nearest to `name`, or nothing when none is near.
pub(super) fn nearest(name: &str, candidates: &[&str]) -> String {
    candidates
        .iter()
        .map(|c| (strsim::damerau_levenshtein(name, c), c))
        .filter(|(distance, c)| *distance <= 2.max(c.len() / 3))
        .min()
        .map_or_else(String::new, |(_, c)| format!("; did you mean `{c}`?"))
}

/// Names between dots, quoted ones unquoted.
fn split(text: &str) -> Result<Vec<String>, PathError> {
    if text.starts_with('$') {
        return Err(PathError::new(
            format!("`{text}` begins with `$`"),
            "write paths outside templates without `$`, for instance `record.id`",
        ));
    }
    let mut names = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (name, after) = quoted
                    .split_once('"')
                    .ok_or_else(|| PathError::new(format!("a quoted name in `{text}` does not end"), "close it with a double quote"))?;
                (name, after)
            }
            None => {
                let (name, after) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
                if name.is_empty() {
                    return Err(PathError::new(
                        format!("`{text}` is not a path: a name is empty"),
                        "write names between single dots, for instance `record.items`",
                    ));
                }
                if name.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '|')) {
                    return Err(PathError::new(
                        format!("`{name}` in a path holds a blank, a bar or a quote"),
                        "put such a name in double quotes: `record.\"user name\"`",
                    ));
                }
                (name, after)
            }
        };
        names.push(name.to_owned());
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(names),
            None => return Err(PathError::new(format!("a quoted name in `{text}` is followed by `{after}`"), "put a dot between names")),
        }
    }
}

fn meta(steps: &mut Vec<String>) -> Result<Meta, PathError> {
    let known = "`meta.topic`, `meta.partition`, `meta.offset`, `meta.timestamp` and `meta.key` exist";
    if steps.is_empty() {
        return Err(PathError::new("`meta` alone is no value", known));
    }
    let name = steps.remove(0);
    match META.iter().find(|m| m.0 == name) {
        Some(&(_, meta)) => Ok(meta),
        None => Err(PathError::new(format!("unknown metadata `{name}`"), format!("{known}{}", nearest(&name, &META.map(|m| m.0))))),
    }
}

fn unknown_root(name: &str, scope: &Scope) -> PathError {
    let message = format!("unknown name `{name}` at the beginning of a path");
    match name {
        "item" | "index" => PathError::new(message, "`item` and `index` exist only in a stream with `each`"),
        "place" => PathError::new("`place` is not in this version", "remove it; places come with a later release"),
        _ => {
            let mut known = vec!["record"];
            if scope.each {
                known.extend(["item", "index"]);
            }
            known.push("meta");
            known.extend(scope.joins.iter().map(String::as_str));
            let near = nearest(name, &known);
            PathError::new(message, format!("a path here begins with `{}`{near}", known.join("`, `")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope { each: true, joins: vec!["product".into(), "shop".into()] }
    }

    fn parse(text: &str) -> Path {
        Path::parse(text, &scope()).unwrap_or_else(|e| panic!("{text}: {}", e.message))
    }

    #[test]
    fn roots_and_steps() {
        assert_eq!(parse("record"), Path { root: Root::Record, steps: vec![] });
        assert_eq!(parse("item.a.0"), Path { root: Root::Item, steps: vec!["a".into(), "0".into()] });
        assert_eq!(parse("shop.city"), Path { root: Root::Join(1), steps: vec!["city".into()] });
        assert_eq!(parse("meta.offset").root, Root::Meta(Meta::Offset));
        assert_eq!(parse(r#"record."a.b | c".d"#).steps, ["a.b | c", "d"]);
        assert_eq!(Path::parse_each("order.items").map(|p| p.steps), Ok(vec!["order".to_owned(), "items".to_owned()]));
    }

    #[test]
    fn faults_name_what_to_do() {
        for (text, remedy) in [
            ("recrod.id", "did you mean `record`?"),
            ("prodct", "did you mean `product`?"),
            ("meta", "meta.topic"),
            ("meta.ofset", "did you mean `offset`?"),
            ("meta.key.id", "end the path there"),
            ("index.a", "end the path there"),
            ("place.h3", "later release"),
            ("$record.id", "without `$`"),
            ("record..id", "single dots"),
            ("", "single dots"),
            ("record.", "single dots"),
            ("record.\"a", "double quote"),
            ("record.\"a\"b", "dot between"),
            ("record.a b", "double quotes"),
        ] {
            let error = Path::parse(text, &scope()).expect_err(text);
            assert!(error.remedy.contains(remedy), "{text}: {} / {}", error.message, error.remedy);
        }
        let error = Path::parse("item.id", &Scope::default()).expect_err("no each");
        assert!(error.remedy.contains("`each`"));
    }
}
