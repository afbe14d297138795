//! How a topic exchange matches, as AMQP 0-9-1 defines it. Pure.

/// Whether a routing key matches a binding key: `*` is one word, `#` any number, words end at dots.
pub(crate) fn matches(pattern: &str, key: &str) -> bool {
    let pattern: Vec<&str> = words(pattern);
    let key: Vec<&str> = words(key);
    // Whether the pattern so far matches the first n words of the key, for each n: linear in memory
    // and quadratic in time, whatever a tenant writes.
    let mut reach = vec![false; key.len() + 1];
    reach[0] = true;
    for part in pattern {
        reach = step(part, &reach, &key);
    }
    reach[key.len()]
}

fn step(part: &str, reach: &[bool], key: &[&str]) -> Vec<bool> {
    let mut next = vec![false; reach.len()];
    for at in 0..reach.len() {
        let one_more = at > 0 && reach[at - 1];
        next[at] = match part {
            "#" => reach[at] || (at > 0 && next[at - 1]),
            "*" => one_more,
            word => one_more && key[at - 1] == word,
        };
    }
    next
}

/// An empty key has no words.
fn words(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.split('.').collect() }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn hash_is_any_number_of_words_and_star_is_one() {
        for (pattern, key, expected) in [
            ("paid.#", "paid", true),
            ("paid.#", "paid.eu.de", true),
            ("paid.#", "paidx.eu", false),
            ("#", "", true),
            ("#.de", "paid.eu.de", true),
            ("#.de", "paid.eu.fr", false),
            ("paid.*", "paid", false),
            ("paid.*", "paid.eu", true),
            ("paid.*", "paid.eu.de", false),
            ("*.#.de", "paid.de", true),
            ("a.#.b.#.c", "a.x.b.y.z.c", true),
            ("a.#.b.#.c", "a.x.y.z.c", false),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, key), expected, "{pattern} against {key}");
        }
    }

    #[test]
    fn a_hostile_pattern_ends_soon() {
        let pattern = ["#"; 120].join(".") + ".x";
        let key = ["a"; 127].join(".");
        assert!(!matches(&pattern, &key));
    }
}
