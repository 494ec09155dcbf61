//! Names: what may be one, and which one was probably meant.

/// Kafka's limit on topic names, which ours (`<name>.dead-letters`, …) must keep as well.
pub(super) const TOPIC_BYTES: usize = 249;
/// Leaves room for what is put before and after a name in topics, groups and transactional ids.
pub(super) const NAME_BYTES: usize = 100;

/// What names of tables, streams and joins are made of. No dot: paths, consumer groups and transactional ids are split by dots.
pub(super) fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// The same with dots: `name` and `instance`, which begin or end what they are put into.
pub(super) fn is_dotted_name(text: &str) -> bool {
    is_topic(text) && text.len() <= NAME_BYTES
}

/// What Kafka takes as a topic.
pub(super) fn is_topic(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=TOPIC_BYTES).contains(&text.len()) && text != "." && text != ".." && text.bytes().all(legal)
}

/// The known name that differs from `text` by the fewest slips, if they are few for its length.
pub(super) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = text.to_lowercase();
    let slips = 1 + text.chars().count() / 4;
    let near = |name: &'a str| (strsim::damerau_levenshtein(&lower, &name.to_lowercase()), name);
    known.into_iter().map(near).filter(|(distance, _)| *distance <= slips).min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// `message`, with the nearest known name where there is one.
pub(super) fn did_you_mean<'a>(message: String, text: &str, quote: char, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(text, known) {
        Some(name) => format!("{message}; did you mean {quote}{name}{quote}?"),
        None => message,
    }
}

/// `a, b and c`, each between `quote`s.
pub(super) fn list<'a>(names: impl IntoIterator<Item = &'a str>, quote: char) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("{quote}{name}{quote}")).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_a_few_slips_away() {
        assert_eq!(nearest("prodcts", ["orders", "products"]), Some("products"));
        assert_eq!(nearest("brokesr", ["brokers", "client"]), Some("brokers"));
        assert_eq!(nearest("Listen", ["listen"]), Some("listen"));
        assert_eq!(nearest("password", ["user", "address"]), None);
        assert_eq!(nearest("", ["user"]), None);
    }

    #[test]
    fn names_fit_into_topics() {
        assert!(is_name("order-items_2") && !is_name("a.b") && !is_name("") && !is_name("ä") && !is_name(&"x".repeat(101)));
        assert!(is_topic("a.b-c_d") && !is_topic("..") && !is_topic("a b") && !is_topic(&"x".repeat(250)));
        assert!(is_dotted_name("shop.eu") && !is_dotted_name(".") && !is_dotted_name(&"x".repeat(101)));
    }
}
